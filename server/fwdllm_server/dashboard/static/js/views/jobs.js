// Every job in a line, and the number of devices in each state.

import { badge, h, setText, svg } from "../dom.js";
import { ago, count, percent, plural, words } from "../format.js";

export const KINDS = { running: "accent", preparing: "accent", done: "good", paused: "warn", stopped: "warn", failed: "bad" };
const STATES = ["working", "idle", "held", "away", "revoked"];

export function jobsView() {
  const jobs = h("div");
  const fleet = h("section", { class: "card", "aria-label": "Devices" });
  const element = h("div", { class: "stack" }, h("h1", {}, "Jobs"), jobs, fleet);
  let shown = "";

  function overview(found) {
    const now = JSON.stringify([found.jobs, found.devices]);
    if (now === shown) return;
    shown = now;
    const focused = document.activeElement?.dataset?.job;
    jobs.replaceChildren(found.jobs.length ? list(found) : nothing());
    if (focused) jobs.querySelector(`[data-job="${CSS.escape(focused)}"]`)?.focus();
    fleet.replaceChildren(...devices(found.devices));
  }
  return { element, title: "Jobs", overview };
}

function list({ jobs, now }) {
  return h("ul", { class: "jobs" }, jobs.map((job) => h("li", {},
    h("a", { class: "card", href: `#/jobs/${encodeURIComponent(job.job_id)}`, "data-job": job.job_id },
      h("div", {},
        h("p", { class: "heading" }, h("span", { class: "name" }, job.name), badge(job.state, KINDS[job.state])),
        h("p", { class: "muted small" }, job.message || `submitted ${ago(job.created_at, now)}`)),
      spark(job.curve),
      h("div", { class: "rounds" },
        h("p", { class: "muted small" }, `${count(job.rounds_committed)} of ${plural(job.rounds_wanted, "round")}`),
        h("progress", {
          max: job.rounds_wanted, value: job.rounds_committed, "aria-label": `rounds of ${job.name}`,
        })),
      h("p", { class: "figure" }, percent(job.accuracy), h("span", { class: "only-read" }, " accuracy"))))));
}

function spark(values) {
  const known = values.map((value, at) => [at, value]).filter(([, value]) => value !== null);
  const picture = svg("svg", { class: "spark", viewBox: "0 0 100 30", preserveAspectRatio: "none", "aria-hidden": "true" });
  if (known.length < 2) return picture;
  const least = Math.min(...known.map(([, value]) => value)), most = Math.max(...known.map(([, value]) => value));
  const x = (at) => 2 + 96 * at / (values.length - 1), y = (value) => 27 - 24 * (value - least) / (most - least || 1);
  picture.append(svg("path", { d: known.map(([at, value], i) => `${i ? "L" : "M"}${x(at)} ${y(value)}`).join("") }));
  return picture;
}

function devices({ total, states, reasons }) {
  let from = 0;
  const parts = STATES.filter((state) => states[state]).map((state) => {
    const part = svg("rect", { x: from, y: 0, width: states[state], height: 1, class: `state-${state}` });
    from += states[state];
    return part;
  });
  const because = Object.entries(reasons);
  return [
    h("div", { class: "heading" }, h("h2", {}, plural(total, "device")), h("a", { class: "end small", href: "#/devices" }, "all devices")),
    h("div", { class: "states" },
      svg("svg", { viewBox: `0 0 ${total || 1} 1`, preserveAspectRatio: "none", "aria-hidden": "true" }, parts)),
    h("ul", { class: "legend" }, STATES.map((state) => h("li", { class: `state-${state}` }, `${count(states[state])} ${state}`))),
    because.length
      ? h("p", { class: "muted small" }, "No work for: ", because.map(([reason, number]) => `${words(reason)} ${count(number)}`).join(", "))
      : null,
  ].filter(Boolean);
}

function nothing() {
  const commands = "fwdllm-server job submit job.toml\nfwdllm-server enroll --name laptop";
  return h("section", { class: "card empty" },
    h("h2", {}, "No jobs yet"),
    h("p", {}, "Submit a job file, and enrol a device:"),
    h("pre", {}, h("code", {}, commands)));
}
