// Accuracy and loss over the versions, and the variance of each round's estimate.

import { Chart } from "../chart.js";
import { h, table } from "../dom.js";
import { decimal, percent } from "../format.js";

export function curves(jobId) {
  let evaluations = [], rounds = [];
  // Ratio of the 95th to the 5th percentile: a single outlier must not change the scale.
  const spread = () => {
    const known = rounds.map((each) => each.variance).filter(Boolean).sort((a, b) => a - b);
    return known[Math.round(0.95 * (known.length - 1))] / known[Math.round(0.05 * (known.length - 1))];
  };
  const accuracy = new Chart({
    title: "Accuracy", hue: "accent", format: (value, axis) => percent(value, axis ? 0 : 1),
    range: (least, most) => padded(least, most, 0.02, 0, 1),
  });
  const loss = new Chart({ title: "Loss", hue: "loss", format: (value, axis) => (value === null ? "–" : value.toFixed(axis ? 2 : 4)), range: (least, most) => padded(least, most, 0.02, 0, Infinity) });
  const variance = new Chart({
    title: "Variance of the estimate", hue: "variance", format: (value) => decimal(value), limitTitle: "at most",
    range: (least, most) => padded(least, most, 0, 0, Infinity),
    logarithmic: () => rounds.length > 1 && spread() > 30,
  });
  const charts = [accuracy, loss, variance];
  const numbers = h("div");
  const details = h("details", { ontoggle: () => tabulate() }, h("summary", {}, "As a table"),
    h("p", { class: "small" }, h("a", { href: `/api/jobs/${encodeURIComponent(jobId)}/curve.csv`, download: "" }, "Download as CSV")), numbers);
  const element = h("section", { class: "card", "aria-label": "Curves" }, h("h2", {}, "Learning"), charts.map((chart) => chart.element), details);

  function tabulate() {
    if (!details.open) return;
    const made = Object.fromEntries(rounds.map((each) => [each.version, each]));
    numbers.replaceChildren(table("Accuracy, loss and variance", [
      { title: "Round", cell: (row) => String(row.version) },
      { title: "Accuracy", number: true, cell: (row) => percent(row.accuracy) },
      { title: "Loss", number: true, cell: (row) => decimal(row.loss, 5) },
      { title: "Variance", number: true, cell: (row) => decimal(made[row.version]?.variance) },
      { title: "Threshold", number: true, cell: (row) => decimal(made[row.version]?.variance_threshold) },
    ], [...evaluations].reverse()));
  }

  return {
    element,
    versions: () => rounds.length,
    rename: (measure) => accuracy.rename(measure),
    // Append entries. After a reconnection they start from the beginning.
    add(found) {
      evaluations = [...evaluations.slice(0, found.evaluations_from), ...found.evaluations];
      rounds = [...rounds.filter((each) => each.version <= found.rounds_from), ...found.rounds];
      const at = evaluations.map((each) => each.version);
      const end = Math.max(at.at(-1) ?? 0, rounds.at(-1)?.version ?? 0);
      accuracy.set(at, evaluations.map((each) => each.accuracy), null, end);
      loss.set(at, evaluations.map((each) => each.loss), null, end);
      const limits = rounds.map((each) => each.variance_threshold);
      variance.set(rounds.map((each) => each.version), rounds.map((each) => each.variance || null), limits.some(Boolean) ? limits : null, end);
      tabulate();
    },
    close: () => charts.forEach((chart) => chart.close()),
  };
}

function padded(least, most, pad, floor, ceiling) {
  if (least === null) return [0, 1];
  const room = Math.max(pad, (most - least) * 0.08);
  return [Math.max(floor, least - room), Math.min(ceiling, most + room)];
}
