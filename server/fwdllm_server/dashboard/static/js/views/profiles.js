// Reports of "fwdllm-server profile" in the server's directory.

import { h, table } from "../dom.js";
import { get } from "../feed.js";
import { bytes, count, decimal, moment } from "../format.js";

export function profilesView() {
  const body = h("div", { class: "stack" }, h("p", { class: "muted" }, "…"));
  get("/api/profiles").then(
    ({ profiles }) => body.replaceChildren(...(profiles.length ? profiles.map(report) : [nothing()])),
    (error) => body.replaceChildren(h("p", { class: "muted" }, error.message)));
  return { element: h("div", { class: "stack" }, h("h1", {}, "Profiles"), body), title: "Profiles" };
}

function report({ name, made_at, plot, report: found }) {
  const { model, job, epochs, rows, metric } = found.settings ?? {};
  return h("section", { class: "card", "aria-label": name },
    h("div", { class: "heading" }, h("h2", {}, name), h("span", { class: "muted small" }, `${job}, ${model}, ${count(epochs)} epochs of ${count(rows)} rows, ${moment(made_at)}`)),
    table(`PEFT methods of ${name}, the best first`, [
      { title: "Method", cell: (row) => row.name },
      { title: "Coordinates", number: true, cell: (row) => count(coordinates(row)) },
      { title: "Passes a gradient and row", number: true, cell: (row) => decimal(row.gradient_passes) },
      { title: "Passes to the target", number: true, cell: (row) => decimal(row.passes_to_target) },
      { title: "Loss", number: true, cell: (row) => decimal(row.loss) },
      { title: metric ?? "Score", number: true, cell: (row) => decimal(row.score) },
      { title: "Model files", number: true, cell: (row) => bytes(row.bundle_bytes) },
    ], found.candidates),
    plot && h("img", { class: "plot-image", src: `/api/profiles/${encodeURIComponent(name)}/plot.png`, alt: `Plot of ${name}: loss against example-passes for each method` }));
}

function coordinates({ blocks = {} }) {
  return Object.values(blocks).reduce((sum, block) => sum + block.coordinates, 0);
}

function nothing() {
  return h("section", { class: "card empty" },
    h("h2", {}, "No profiles yet"),
    h("p", {}, "A profile ranks PEFT methods before a job is submitted:"),
    h("pre", {}, h("code", {}, "fwdllm-server profile job.toml --out fwdllm-server/profiles/first")));
}
