"use strict";

// Plays or shows a job's file in place of its drawing, refreshes the page, and opens links outside Airflow's frame.

const REFRESH = 10_000; // milliseconds
const main = document.getElementById("jobs");
const news = document.getElementById("news");

// --- Play: only the media element requests the URL, and only once. ----------------------------------

function play(link) {
  const media = document.createElement(link.dataset.element);
  media.className = "media";
  media.setAttribute("aria-label", link.getAttribute("aria-label").replace(/^(Play|Show) /, ""));
  // An image ignores these properties.
  media.controls = true;
  media.autoplay = true;
  media.playsInline = true;
  const stage = link.closest(".stage");
  stage.classList.add("busy");
  for (const event of ["playing", "load"]) {
    media.addEventListener(event, () => stage.classList.remove("busy"), { once: true });
  }
  media.addEventListener("error", () => explain(link, media, stage), { once: true });
  media.src = link.href;
  link.hidden = true;
  stage.append(media);
  media.focus();
}

// A media element does not say why it cannot play. The response to the same URL has a sentence that says why.
async function explain(link, media, stage) {
  let why = "This browser cannot play the file.";
  try {
    const response = await fetch(link.href, { redirect: "manual", cache: "no-store" });
    if (response.type !== "opaqueredirect") {
      const isText = response.headers.get("Content-Type")?.startsWith("text/plain");
      why = isText ? await response.text() : `Airflow answered with HTTP ${response.status}.`;
    }
  } catch {
    why = "Airflow did not answer.";
  }
  media.remove();
  stage.classList.remove("busy");
  link.hidden = false;
  const about = stage.parentElement.querySelector(".about");
  about.querySelector(".problem")?.remove();
  const problem = document.createElement("p");
  problem.className = "problem";
  problem.setAttribute("role", "alert");
  problem.textContent = why;
  about.querySelector(".line").after(problem);
  link.focus();
}

// --- Links out of Airflow's frame: the frame blocks them, so Airflow's own document opens them. -------

function leave(link, event) {
  const outside = window.parent.document.createElement("a");
  outside.href = link.href;
  if (link.target || event.ctrlKey || event.metaKey || event.shiftKey || event.button === 1) {
    outside.target = "_blank";
    outside.rel = "noopener noreferrer";
  }
  outside.click();
}

function clicked(event) {
  const link = event.target.closest?.("a");
  if (!link) return;
  if (link.matches(".play") && event.type === "click" && !event.ctrlKey && !event.metaKey) {
    event.preventDefault();
    play(link);
  } else if (window.parent !== window && (link.matches(".airflow") || link.target === "_blank")) {
    event.preventDefault();
    leave(link, event);
  }
}

document.addEventListener("click", clicked);
document.addEventListener("auxclick", (event) => event.button === 1 && clicked(event));

// --- Refresh: while a job is in progress, load the list of this page again. ---------------------------

async function refresh() {
  const url = new URL(location.href);
  url.searchParams.set("fragment", "");
  try {
    const response = await fetch(url, { cache: "no-store" });
    if (!response.ok) throw new Error(`Airflow answered with HTTP ${response.status}`);
    const fresh = new DOMParser().parseFromString(await response.text(), "text/html");
    update(fresh.body);
    news.hidden = true;
  } catch (error) {
    news.textContent = `${error.message}. This page is not up to date.`;
    news.hidden = false;
  }
}

// Keep the jobs that play and the focus, and replace everything else. A media element stops when it is moved.
function update(fresh) {
  const focused = document.activeElement?.closest?.("a[href]")?.getAttribute("href");
  const opened = [...main.querySelectorAll("details[open]")].map((details) => `details.${details.className}`);
  const jobs = main.querySelector(".jobs");
  const freshJobs = fresh.querySelector(".jobs");
  if (jobs && freshJobs) {
    for (const job of [...jobs.children]) if (!job.querySelector(".media")) job.remove();
    let next = jobs.firstElementChild;
    for (const job of [...freshJobs.children]) {
      const playing = document.getElementById(job.id);
      if (playing) next = playing.nextElementSibling;
      else jobs.insertBefore(job, next);
    }
    for (const part of [...main.children]) if (part !== jobs) part.remove();
    while (fresh.firstElementChild !== freshJobs) jobs.before(fresh.firstElementChild);
    freshJobs.remove();
    main.append(...fresh.children);
  } else {
    main.replaceChildren(...fresh.children);
  }
  localTimes();
  for (const details of opened) main.querySelector(details)?.setAttribute("open", "");
  if (focused) main.querySelector(`a[href="${CSS.escape(focused)}"]`)?.focus();
}

const isLive = () => main?.querySelector("[data-live]")?.dataset.live === "yes";

setInterval(() => {
  if (isLive() && !document.hidden) refresh();
}, REFRESH);

// --- A phone has no room for the filters, so they are folded if none is set. ----------------------------

if (matchMedia("(max-width: 520px)").matches) document.querySelector(".filter:not([data-keep])")?.removeAttribute("open");

// --- Show times in the time zone that the user chose in Airflow. ----------------------------------------

function localTimes() {
  let timeZone;
  try {
    timeZone = JSON.parse(localStorage.getItem("timezone")) ?? undefined;
  } catch {
    timeZone = undefined;
  }
  const format = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "long", timeZone });
  for (const time of document.querySelectorAll("time")) time.title = format.format(new Date(time.dateTime));
}

localTimes();
