// The curves of several jobs over each other, by round, direction or time.

import uPlot from "/static/vendor/uplot/uPlot.esm.js";
import { h, table } from "../dom.js";
import { count, decimal, duration, percent, short } from "../format.js";

const HEIGHT = 320;
const MOST = 6; // as many as there are lines that can be told apart
const DASHES = [[], [8, 4], [2, 3], [10, 3, 2, 3]];
const HUES = ["accent", "loss", "variance"];
const AXES = {
  version: { title: "round", format: count },
  directions: { title: "directions", format: short },
  seconds: { title: "time", format: duration },
};
const VALUES = {
  accuracy: { title: "accuracy", format: (value, axis) => percent(value, axis ? 0 : 1) },
  loss: { title: "loss", format: (value) => decimal(value) },
};
const color = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();

export function compareView() {
  const chosen = new Map(); // job id -> its curve, null while it is loaded
  let known = "", plot = null;
  const picks = h("ul", { class: "picks" });
  const by = select("x", AXES, "By"), value = select("y", VALUES, "Value");
  const logarithmic = h("input", { type: "checkbox", id: "compare-log", onchange: () => draw() });
  const picture = h("div", { class: "plot", role: "img", "aria-label": "no job is chosen" });
  const empty = h("p", { class: "muted" }, "Choose jobs to lay their curves over each other.");
  const numbers = h("div");
  const element = h("div", { class: "stack" }, h("h1", {}, "Compare"),
    h("section", { class: "card", "aria-label": "Jobs to compare" }, picks,
      h("p", { class: "controls" }, by.element, value.element,
        h("label", { for: "compare-log" }, logarithmic, " logarithmic"))),
    h("section", { class: "card", "aria-label": "Curves" }, empty, picture, numbers));
  const resize = new ResizeObserver(() => plot && picture.clientWidth && plot.setSize({ width: picture.clientWidth, height: HEIGHT }));
  resize.observe(picture);
  const redraw = () => draw();
  addEventListener("themechange", redraw);

  function select(name, options, title) {
    const id = `compare-${name}`;
    const list = h("select", { id, onchange: () => draw() }, Object.entries(options).map(([key, { title }]) => h("option", { value: key }, title)));
    return { list, element: h("label", { for: id }, `${title} `, list) };
  }

  async function choose(jobId, on) {
    if (!on) chosen.delete(jobId);
    else {
      chosen.set(jobId, null);
      const answer = await fetch(`/api/jobs/${encodeURIComponent(jobId)}/curve`);
      if (answer.ok && chosen.has(jobId)) chosen.set(jobId, await answer.json());
    }
    for (const box of picks.querySelectorAll("input")) box.disabled = !box.checked && chosen.size >= MOST;
    draw();
  }

  function draw() {
    plot?.destroy();
    plot = null;
    const curves = [...chosen.values()].filter(Boolean);
    const x = by.list.value, y = value.list.value;
    empty.hidden = curves.length > 0;
    const width = picture.clientWidth;
    const text = curves.length ? `${VALUES[y].title} by ${AXES[x].title} of ${curves.map((each) => each.name).join(", ")}` : "no job is chosen";
    picture.setAttribute("aria-label", text);
    tabulate(curves);
    if (!curves.length || !width) return;
    const data = aligned(curves, x, y, logarithmic.checked);
    const font = `12px ${getComputedStyle(document.body).fontFamily}`;
    const axis = { stroke: color("muted"), font, grid: { stroke: color("line"), width: 1 }, ticks: { show: false } };
    plot = new uPlot({
      width, height: HEIGHT, padding: [8, 18, 0, 0], legend: { show: false },
      series: [{}, ...curves.map((_, at) => ({ stroke: color(HUES[at % HUES.length]), dash: DASHES[Math.floor(at / HUES.length)], width: 2, spanGaps: true, points: { show: data[0].length <= 60, size: 5 } }))],
      scales: { x: { time: false, distr: logarithmic.checked ? 3 : 1 }, y: {} },
      axes: [
        { ...axis, size: 34, label: AXES[x].title, labelSize: 16, labelFont: font, values: (_, ticks) => ticks.map((tick) => (tick === null ? "" : AXES[x].format(tick))) },
        { ...axis, size: 58, values: (_, ticks) => ticks.map((tick) => (tick === null ? "" : VALUES[y].format(tick, true))) },
      ],
    }, data, picture);
  }

  function tabulate(curves) {
    const last = (curve) => curve.points.at(-1);
    numbers.replaceChildren(curves.length ? table("The newest values", [
      { title: "Job", cell: ({ curve, at }) => h("span", {}, h("span", { class: `key key-${HUES[at % HUES.length]} key-dash-${Math.floor(at / HUES.length)}` }), " ", h("a", { href: `#/jobs/${encodeURIComponent(curve.job_id)}` }, curve.name)) },
      { title: "Metric", cell: ({ curve }) => curve.metric },
      { title: "Value", number: true, cell: ({ curve }) => percent(last(curve)?.accuracy) },
      { title: "Loss", number: true, cell: ({ curve }) => decimal(last(curve)?.loss) },
      { title: "Rounds", number: true, cell: ({ curve }) => count(last(curve)?.version ?? 0) },
      { title: "Directions", number: true, cell: ({ curve }) => short(last(curve)?.directions ?? 0) },
      { title: "Time", number: true, cell: ({ curve }) => duration(last(curve)?.seconds ?? 0) },
      { title: "Curve", cell: ({ curve }) => h("a", { href: `/api/jobs/${encodeURIComponent(curve.job_id)}/curve.csv`, download: "" }, "CSV") },
    ], curves.map((curve, at) => ({ curve, at }))) : "");
  }

  return {
    element, title: "Compare",
    overview({ jobs }) {
      const now = JSON.stringify(jobs.map((job) => [job.job_id, job.name, job.state]));
      if (now === known) return;
      known = now;
      picks.replaceChildren(...jobs.map((job) => {
        const id = `compare-${job.job_id}`;
        const box = h("input", { type: "checkbox", id, checked: chosen.has(job.job_id), onchange: (event) => choose(job.job_id, event.target.checked) });
        return h("li", {}, h("label", { for: id }, box, ` ${job.name} `, h("span", { class: "muted small" }, `${job.job_id}, ${job.state}`)));
      }));
    },
    close() {
      resize.disconnect();
      removeEventListener("themechange", redraw);
      plot?.destroy();
    },
  };
}

// One axis for all: every place at which any curve has a value. A logarithm has no place for 0.
function aligned(curves, x, y, logarithmic) {
  const usable = (point) => point[x] !== null && point[x] !== undefined && (!logarithmic || point[x] > 0);
  const places = [...new Set(curves.flatMap((curve) => curve.points.filter(usable).map((point) => point[x])))].sort((a, b) => a - b);
  return [places, ...curves.map((curve) => {
    const known = new Map(curve.points.filter(usable).map((point) => [point[x], point[y]]));
    return places.map((place) => known.get(place) ?? null);
  })];
}
