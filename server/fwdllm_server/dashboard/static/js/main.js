// Select the page by the address after "#". One stream feeds all pages.

import { setAttribute, setText } from "./dom.js";
import { Feed } from "./feed.js";
import { compareView } from "./views/compare.js";
import { devicesView } from "./views/devices.js";
import { jobView } from "./views/job.js";
import { jobsView } from "./views/jobs.js";
import { profilesView } from "./views/profiles.js";

const main = document.getElementById("main");
const connection = document.getElementById("connection");
const problem = document.getElementById("problem");
const WORDS = { live: "live", lost: "connection lost, reconnecting", wait: "connecting" };

let view = null;
let overview = null;

const feed = new Feed({
  overview(found) {
    overview = found;
    setText(problem, found.problem ? `The coordinator cannot serve now: ${found.problem}` : "");
    problem.hidden = !found.problem;
    view?.overview?.(found);
  },
  job: (found) => view?.job?.(found),
  curve: (found) => view?.curve?.(found),
  gone: (found) => view?.gone?.(found),
}, (state) => {
  connection.dataset.state = state;
  setText(connection, WORDS[state]);
});

function viewOf(path) {
  const [, page, id] = path.split("/");
  if (page === "jobs" && id) return jobView(decodeURIComponent(id));
  if (page === "compare") return compareView();
  if (page === "devices") return devicesView();
  if (page === "profiles") return profilesView();
  return jobsView();
}

function show() {
  const path = location.hash.slice(1) || "/";
  view?.close?.();
  view = viewOf(path);
  document.title = `${view.title} · fwdllm`;
  main.replaceChildren(view.element);
  for (const link of document.querySelectorAll(".bar nav a")) {
    const page = link.hash.slice(1);
    const here = page === "/" ? path === "/" || path.startsWith("/jobs") : path.startsWith(page);
    setAttribute(link, "aria-current", here && "page");
  }
  if (overview) view.overview?.(overview);
  feed.open(view.jobId);
}

addEventListener("hashchange", () => {
  if (location.hash === "#main") return;
  show();
  main.focus({ preventScroll: true });
  scrollTo(0, 0);
});
document.querySelector(".skip").addEventListener("click", (event) => {
  event.preventDefault();
  main.focus();
});
// A hidden page needs no updates, and a browser opens few connections to one server.
document.addEventListener("visibilitychange", () => (document.hidden ? feed.close() : feed.open(view.jobId)));
addEventListener("pagehide", () => feed.close());
addEventListener("pageshow", (event) => event.persisted && show());
show();
