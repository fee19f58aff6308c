// The current round: its phase, the collected directions and the variance of the estimate.

import { h, setAttribute, setText } from "../dom.js";
import { count, decimal, duration, plural } from "../format.js";

const PHASES = ["selecting", "assigned", "collecting", "committing", "committed"];

export function round() {
  const title = h("h2", {}, "Round");
  const since = h("span", { class: "muted small end" });
  const phases = h("ol", { class: "phases", "aria-label": "Phases of the round" });
  const bar = h("progress", { max: 1, value: 0, "aria-label": "directions collected" });
  const pairs = Object.fromEntries(["Directions", "Variance", "Devices"].map((name) => [name, h("dd", {}, "–")]));
  const reason = h("p", { class: "muted small" });
  const element = h("section", { class: "card stack", "aria-label": "Current round" },
    h("div", { class: "heading" }, title, since), phases, bar,
    h("dl", { class: "pairs" }, Object.entries(pairs).flatMap(([name, cell]) => [h("dt", {}, name), cell])), reason);
  return {
    element,
    show(job) {
      const now = job.round;
      if (!now) {
        setText(reason, job.state === "preparing" ? "The model is being prepared." : "No round yet.");
        return;
      }
      const ended = ["done", "stopped", "failed"].includes(job.state);
      setText(title, now.number ? `Round ${now.number}` : "Before the first round");
      setText(since, job.phase_since && !ended ? `${now.phase} for ${duration(job.now - job.phase_since)}` : "");
      drawPhases(phases, now.phase);
      setAttribute(bar, "max", Math.max(1, now.directions_wanted));
      setAttribute(bar, "value", Math.min(now.directions_collected, now.directions_wanted));
      setText(pairs.Directions, `${count(now.directions_collected)} of ${count(now.directions_wanted)}`);
      const limit = now.variance_threshold > 0 ? ` (at most ${decimal(now.variance_threshold)})` : "";
      setText(pairs.Variance, now.variance ? `${decimal(now.variance)}${limit}` : "not computed yet");
      setText(pairs.Devices, plural(now.devices, "device"));
      setText(reason, now.reason);
    },
  };
}

function drawPhases(list, phase) {
  if (list.dataset.phase === phase) return;
  list.dataset.phase = phase;
  const names = phase === "initialising" ? ["initialising", ...PHASES] : phase === "abandoned" ? [...PHASES.slice(0, 4), "abandoned"] : PHASES;
  const here = names.indexOf(phase);
  list.replaceChildren(...names.map((name, at) => h("li", {
    "aria-current": at === here && "step",
    "data-is": at < here ? "past" : at > here ? null : { committed: "ended", abandoned: "broken" }[name],
  }, name)));
}
