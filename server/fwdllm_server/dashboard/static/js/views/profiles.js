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
  const { model, job, directions, rows } = found.settings ?? {};
  return h("section", { class: "card", "aria-label": name },
    h("div", { class: "heading" }, h("h2", {}, name), h("span", { class: "muted small" }, `${job}, ${model}, ${count(directions)} directions, ${count(rows)} rows, ${moment(made_at)}`)),
    table(`PEFT methods of ${name}, the best first`, [
      { title: "Method", cell: (row) => row.name },
      { title: "Coordinates", number: true, cell: (row) => count(row.coordinates) },
      { title: "Expected decrease of loss a second", number: true, cell: (row) => decimal(row.at_budget?.drop?.per_second) },
      { title: "Seconds a direction", number: true, cell: (row) => decimal(row.seconds_per_direction) },
      { title: "Passes a direction", number: true, cell: (row) => decimal(row.passes_per_direction) },
      { title: "Model files", number: true, cell: (row) => bytes(row.bundle_bytes) },
    ], found.candidates),
    plot && h("img", { class: "plot-image", src: `/api/profiles/${encodeURIComponent(name)}/plot.png`, alt: `Plot of ${name}: cosine of forward and true gradient against directions for each method` }));
}

function nothing() {
  return h("section", { class: "card empty" },
    h("h2", {}, "No profiles yet"),
    h("p", {}, "A profile ranks PEFT methods before a job is submitted:"),
    h("pre", {}, h("code", {}, "fwdllm-server profile job.toml --out fwdllm-server/profiles/first")));
}
