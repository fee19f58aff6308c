// A curve over the versions of the weights, with an optional limit. All charts of a page share their cursor.

import uPlot from "/static/vendor/uplot/uPlot.esm.js";
import { h, setText } from "./dom.js";

const HEIGHT = 150;
const color = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();

export class Chart {
  #plot = null;
  #data = [[], []];
  #at = null;
  #logarithmic = false;

  // format(value) -> text; note(index) -> text beside the value; hue: a colour of the palette
  constructor({ title, hue, format, note, limitTitle, range, logarithmic }) {
    Object.assign(this, { title, hue, format, note, limitTitle, range, logarithmic });
    this.name = h("span", {}, title);
    this.value = h("span", {}, "–");
    this.small = h("small");
    this.nothing = h("p", { class: "nothing" }, "no values yet");
    this.plotElement = h("div", {
      class: "plot", tabindex: "0", role: "img", "aria-label": title,
      onkeydown: (event) => this.#key(event), onblur: () => this.#move(null),
    }, this.nothing);
    this.element = h("div", { class: "chart" },
      h("div", { class: "heading" },
        h("h3", {}, h("span", { class: `key key-${hue}` }), this.name),
        h("p", { class: "read" }, this.value, " ", this.small)),
      this.plotElement);
    this.resize = new ResizeObserver(() => this.#fit());
    this.resize.observe(this.plotElement);
    this.redraw = () => this.#draw();
    addEventListener("themechange", this.redraw);
  }

  rename(title) {
    this.title = title;
    setText(this.name, title);
  }

  // end: the newest round of any curve, so that charts above each other have the same range
  set(versions, values, limits, end) {
    this.#data = limits ? [versions, values, limits] : [versions, values];
    this.end = end;
    this.nothing.hidden = versions.length > 0;
    const same = this.#plot?.series.length === this.#data.length && this.#logarithmic === Boolean(this.logarithmic?.());
    if (same) this.#plot.setData(this.#data);
    else this.#draw();
    this.#read();
    const last = values.length - 1;
    const summary = last < 0 ? "no values yet"
      : `${values.length} values, from ${this.format(values[0])} to ${this.format(values[last])} at round ${versions[last]}`;
    this.plotElement.setAttribute("aria-label", `${this.title}: ${summary}. Left and right arrow keys read the values.`);
  }

  close() {
    this.resize.disconnect();
    removeEventListener("themechange", this.redraw);
    this.#plot?.destroy();
  }

  #draw() {
    this.#plot?.destroy();
    this.#plot = null;
    const width = this.plotElement.clientWidth;
    if (!width) return;
    this.#logarithmic = Boolean(this.logarithmic?.());
    const line = color(this.hue), muted = color("muted"), grid = color("line");
    const font = `12px ${getComputedStyle(document.body).fontFamily}`;
    const axis = { stroke: muted, font, grid: { stroke: grid, width: 1 }, ticks: { show: false } };
    const series = [{}, {
      stroke: line, width: 2, spanGaps: true,
      fill: this.limitTitle ? undefined : (plot) => shade(plot, line),
      points: { show: (plot) => plot.data[0].length <= 60, size: 6, fill: color("surface"), stroke: line, width: 2 },
    }];
    if (this.#data.length > 2) {
      series.push({ stroke: muted, width: 1.5, dash: [6, 5], points: { show: false }, spanGaps: true });
    }
    this.#plot = new uPlot({
      width, height: HEIGHT, series, legend: { show: false }, padding: [8, 18, 0, 0],
      cursor: { sync: { key: "job", setSeries: false }, y: false, drag: { x: true, y: false }, points: { size: 8 } },
      scales: {
        x: { time: false, range: (plot, least, most) => wholeOrZoomed(plot, least, most, this.end) },
        y: { distr: this.#logarithmic ? 3 : 1, range: this.#logarithmic ? undefined : (plot, least, most) => this.range(...withoutOutliers(plot.data, least, most)) },
      },
      axes: [
        { ...axis, size: 28, incrs: [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000, 50000, 100000] },
        { ...axis, size: 58, values: (_, ticks) => ticks.map((tick) => (tick === null ? "" : this.format(tick, true))) },
      ],
      hooks: { setCursor: [(plot) => { this.#at = plot.cursor.idx ?? null; this.#read(); }] },
    }, this.#data, this.plotElement);
  }

  #fit() {
    const width = this.plotElement.clientWidth;
    if (!this.#plot) this.#draw();
    else if (width && width !== this.#plot.width) this.#plot.setSize({ width, height: HEIGHT });
  }

  // Show the value under the cursor, or the newest one.
  #read() {
    const [versions, values, limits] = this.#data;
    let at = this.#at ?? values.length - 1;
    while (this.#at === null && at > 0 && values[at] === null) at -= 1;
    if (at < 0 || at >= values.length) return;
    const limit = limits?.[at];
    setText(this.value, this.format(values[at]));
    setText(this.small, `${limit ? `${this.limitTitle} ${this.format(limit)}, ` : ""}round ${versions[at]}`);
  }

  #key(event) {
    const last = this.#data[0].length - 1;
    const step = { ArrowLeft: -1, ArrowRight: 1, Home: -last, End: last }[event.key];
    if (step === undefined || last < 0) return;
    event.preventDefault();
    this.#move(Math.min(last, Math.max(0, (this.#at ?? last) + step)));
    this.plotElement.setAttribute("aria-label", `${this.title}: ${this.value.textContent}, ${this.small.textContent}`);
  }

  #move(at) {
    if (!this.#plot) return;
    const left = at === null ? -10 : this.#plot.valToPos(this.#data[0][at], "x");
    this.#plot.setCursor({ left, top: at === null ? -10 : 10 });
  }
}

// The whole range is the same for all charts, also if a curve begins at round 1 or skips rounds.
function wholeOrZoomed(plot, least, most, end) {
  const versions = plot.data[0];
  if (least === null || (least === versions[0] && most === versions[versions.length - 1])) return [0, Math.max(end, 1)];
  return [least, Math.max(most, least + 1)];
}

// A single outlier would flatten the curve. The first value is always in the range.
function withoutOutliers(data, least, most) {
  const known = data.slice(1).flat().filter((value) => value !== null && value !== undefined);
  if (least === null || known.length < 8) return [least, most];
  const first = known[0];
  known.sort((a, b) => a - b);
  const low = known[Math.ceil(0.05 * (known.length - 1))], high = known[Math.floor(0.95 * (known.length - 1))];
  const room = 3 * (high - low) || 0.1 * Math.abs(high) || 1;
  const from = Math.max(least, Math.min(first, low - room)), to = Math.min(most, Math.max(first, high + room));
  return from < to ? [from, to] : [least, most];
}

function shade(plot, line) {
  const gradient = plot.ctx.createLinearGradient(0, plot.bbox.top, 0, plot.bbox.top + plot.bbox.height);
  gradient.addColorStop(0, `${line}2e`);
  gradient.addColorStop(1, `${line}00`);
  return gradient;
}
