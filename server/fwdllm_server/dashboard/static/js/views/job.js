// One job: its figures, round, curves, devices and ledger.

import { badge, h, setAttribute, setText } from "../dom.js";
import { bytes, count, duration, energy, percent, plural, short } from "../format.js";
import { curves } from "./curves.js";
import { deviceTable } from "./devices.js";
import { KINDS } from "./jobs.js";
import { ledger } from "./ledger.js";
import { round } from "./round.js";

export function jobView(jobId) {
  const name = h("h1", {}, "Job");
  const state = badge("…", "");
  const facts = h("p", { class: "muted small" });
  const message = h("p", { class: "problem", hidden: true });
  const tiles = figures();
  const now = round();
  const charts = curves(jobId);
  const book = ledger(jobId);
  const fleet = deviceTable({ job: jobId, heading: "Devices of this job" });
  const element = h("div", { class: "stack" },
    h("div", {}, h("div", { class: "heading" }, name, state), facts),
    message, tiles.element,
    h("div", { class: "columns" }, h("div", { class: "stack" }, charts.element), h("div", { class: "stack" }, now.element, book.element)),
    fleet.element);
  const view = {
    element, jobId, title: "Job",
    job(job) {
      view.title = job.name;
      document.title = `${job.name} · fwdllm`;
      setText(name, job.name);
      setText(state, job.state);
      setAttribute(state, "data-kind", KINDS[job.state]);
      setText(facts, factsOf(job));
      setText(message, job.message);
      message.hidden = !job.message;
      charts.rename(measureOf(job));
      tiles.show(job);
      now.show(job);
      fleet.refresh();
    },
    curve(found) {
      charts.add(found);
      book.grown(charts.versions());
    },
    gone() {
      element.replaceChildren(h("section", { class: "card empty" },
        h("h1", {}, "No such job"), h("p", {}, h("a", { href: "#/" }, "All jobs"))));
    },
    close() {
      charts.close();
      fleet.close();
    },
  };
  return view;
}

// The name of the metric is the task's.
const measureOf = (job) => capitalised(job.latest_evaluation?.metric || "accuracy");
const capitalised = (name) => name[0].toUpperCase() + name.slice(1);

// The figure by which versions are compared: the perplexity of a language model, else the metric.
const isPerplexity = (evaluation) => typeof evaluation?.perplexity === "number";
const figureOf = (evaluation) => (isPerplexity(evaluation) ? evaluation.perplexity.toPrecision(4) : percent(evaluation?.accuracy));

function factsOf(job) {
  return [
    job.job_id,
    job.trainable_parameters && `${count(job.trainable_parameters)} trainable parameters`,
    job.head_init && `head from ${job.head_init}`,
    job.latest_evaluation && `${count(job.latest_evaluation.rows)} held-out rows`,
    job.privacy,
    job.privacy_budget && `ε = ${job.privacy_budget.epsilon_spent.toPrecision(3)} of ${job.privacy_budget.epsilon} spent at δ = ${job.privacy_budget.delta}`,
  ].filter(Boolean).join(" · ");
}

function figures() {
  const names = ["Accuracy", "On devices", "Rounds", "Directions", "Traffic", "Device time", "Energy", "Elapsed"];
  const cells = names.map((title) => {
    const name = h("dt", {}, title), value = h("span", { class: "value" }, "–"), note = h("span", { class: "note" });
    return { name, value, note, element: h("div", { class: "tile" }, name, h("dd", {}, h("div", {}, value), h("div", {}, note))) };
  });
  const put = (at, value, note) => { setText(cells[at].value, value); setText(cells[at].note, note); };
  return {
    element: h("dl", { class: "tiles" }, cells.map((cell) => cell.element)),
    show(job) {
      const { latest_evaluation: latest, initial_evaluation: initial, best_evaluation: best, spent } = job;
      setText(cells[0].name, isPerplexity(latest) ? "Perplexity" : measureOf(job));
      put(0, figureOf(latest), latest ? [initial && `from ${figureOf(initial)}`, `best ${figureOf(best)}`].filter(Boolean).join(", ") : "not evaluated yet");
      const own = latest?.federated_rows;
      put(1, own ? percent(latest.federated_accuracy) : "–", own ? `on ${plural(own, "row")} of the devices` : "not evaluated on devices");
      put(2, `${count(job.rounds_committed)} / ${count(job.rounds_wanted)}`, job.rounds_abandoned ? plural(job.rounds_abandoned, "abandoned round") : "none abandoned");
      put(3, short(job.directions), unused(job));
      put(4, `↑ ${bytes(spent.bytes_sent)}`, `↓ ${bytes(spent.bytes_received)}, model ${bytes(spent.artifact_bytes)}`);
      put(5, duration(spent.seconds), `${plural(spent.devices, "device")}, peak ${bytes(spent.peak_rss_bytes)}`);
      put(6, spent.measuring ? energy(spent.joules) : "–", measured(spent));
      put(7, duration(job.seconds_running), job.seconds_left ? `about ${duration(job.seconds_left)} left` : job.state);
    },
  };
}

function measured({ measuring, devices }) {
  if (!measuring) return "not measured";
  return measuring < devices ? `measured on ${count(measuring)} of ${plural(devices, "device")}` : "while computing";
}

function unused(job) {
  const reasons = { repeated: job.scalars_repeated, late: job.scalars_late, unusable: job.scalars_unusable };
  const found = Object.entries(reasons).filter(([, number]) => number).map(([reason, number]) => `${short(number)} ${reason}`);
  return found.length ? `not used: ${found.join(", ")}` : "every scalar counted";
}
