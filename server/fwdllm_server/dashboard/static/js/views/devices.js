// Devices: their states, conditions and resource usage for a job.

import { badge, h, setText, table } from "../dom.js";
import { get } from "../feed.js";
import { ago, bytes, count, duration, energy, plural, short, words } from "../format.js";

const KINDS = { working: "accent", idle: "good", held: "warn", away: "", revoked: "bad" };
const PAGE = 50;
const EVERY_MS = 3000;

export function devicesView() {
  const list = deviceTable({ heading: "All devices" });
  return {
    element: h("div", { class: "stack" }, h("h1", {}, "Devices"), list.element),
    title: "Devices", overview: () => list.refresh(), close: () => list.close(),
  };
}

export function deviceTable({ job, heading }) {
  let offset = 0, last = 0, timer = 0, shown = "", closed = false;
  const total = h("span", { class: "muted small" });
  const search = h("input", { type: "search", placeholder: "name or id", "aria-label": "Search devices", oninput: () => go(0) });
  const state = h("select", { "aria-label": "State", onchange: () => go(0) },
    h("option", { value: "" }, "any state"), Object.keys(KINDS).map((name) => h("option", {}, name)));
  const before = h("button", { type: "button", onclick: () => go(offset - PAGE) }, "Previous");
  const after = h("button", { type: "button", onclick: () => go(offset + PAGE) }, "Next");
  const pages = h("p", { class: "toolbar", hidden: true }, before, after);
  const rows = h("div");
  const element = h("section", { class: "card", "aria-label": heading },
    h("div", { class: "heading" }, h("h2", {}, heading), total, h("div", { class: "toolbar end" }, search, state)), rows, pages);

  function go(to) {
    offset = Math.max(0, to);
    load();
  }

  async function load() {
    clearTimeout(timer);
    last = Date.now();
    const query = new URLSearchParams({ offset, limit: PAGE, search: search.value, state: state.value, ...(job && { job }) });
    try {
      const found = await get(`/api/devices?${query}`);
      if (!closed) show(found);
    } catch { /* the next event retries; the bar shows that the connection is lost */ }
  }

  function show(found) {
    setText(total, plural(found.total, "device"));
    pages.hidden = found.total <= PAGE;
    before.disabled = offset === 0;
    after.disabled = offset + PAGE >= found.total;
    const now = Date.now() / 1000;
    const text = JSON.stringify(found);
    if (text === shown) return;
    shown = text;
    const scroll = rows.firstChild?.scrollLeft ?? 0;
    rows.replaceChildren(found.total ? table(heading, job ? forJob() : everywhere(now), found.devices) : h("p", { class: "muted" }, "none"));
    rows.firstChild.scrollLeft = scroll;
  }

  return {
    element,
    // Called at every event; requests at most every few seconds.
    refresh() {
      clearTimeout(timer);
      timer = setTimeout(load, Math.max(0, last + EVERY_MS - Date.now()));
    },
    close() {
      closed = true;
      clearTimeout(timer);
    },
  };
}

const named = { title: "Device", cell: (row) => h("span", { title: row.device_id }, row.name) };
const stands = {
  title: "State",
  cell: (row) => h("span", { class: "badges" }, badge(row.state, KINDS[row.state]), row.reasons.filter((reason) => reason !== row.state).map((reason) => badge(words(reason), "warn"))),
};

function everywhere(now) {
  return [
    named, stands,
    { title: "Power", cell: ({ conditions }) => power(conditions) },
    { title: "Network", cell: ({ conditions }) => (known(conditions?.metered) ? (conditions.metered ? "metered" : "unmetered") : "–") },
    { title: "Heat", cell: ({ conditions }) => heat(conditions) },
    { title: "Seen", cell: (row) => ago(row.last_seen_at, now) },
    { title: "Examples", number: true, cell: (row) => count(row.training_examples) },
    { title: "Software", cell: (row) => h("span", { class: "small muted" }, row.software || "–") },
  ];
}

function forJob() {
  return [
    named, stands,
    { title: "Power", cell: ({ conditions }) => power(conditions) },
    { title: "Scalars", number: true, cell: ({ spent }) => (spent ? count(spent.scalars) : "–") },
    { title: "Computing", number: true, cell: ({ spent }) => (spent ? duration(spent.seconds) : "–") },
    { title: "Peak memory", number: true, cell: ({ spent }) => (spent ? bytes(spent.peak_rss_bytes) : "–") },
    { title: "Sent", number: true, cell: ({ spent }) => (spent ? bytes(spent.bytes_sent) : "–") },
    { title: "Received", number: true, cell: ({ spent }) => (spent ? bytes(spent.bytes_received + spent.artifact_bytes) : "–") },
    { title: "Energy", number: true, cell: ({ spent }) => (known(spent?.joules) ? energy(spent.joules) : "–") },
    { title: "Signal to noise", number: true, cell: ({ spent }) => (spent?.signal_to_noise ? short(spent.signal_to_noise) : "–") },
  ];
}

const known = (value) => value !== null && value !== undefined;

function power(conditions) {
  if (!conditions) return "–";
  const charge = known(conditions.battery_percent) ? `${Math.round(conditions.battery_percent)} %` : "";
  const plug = known(conditions.charging) ? (conditions.charging ? "charging" : "on battery") : "";
  return [plug, charge].filter(Boolean).join(", ") || "–";
}

function heat(conditions) {
  const word = conditions?.thermal;
  return !word || word === "unspecified" ? "–" : { none: "cool", light: "warm" }[word] ?? word;
}
