// The ledger: seeds and coefficients of each committed round.

import { h, setText, table } from "../dom.js";
import { get } from "../feed.js";
import { bytes, count, decimal, moment, plural, words } from "../format.js";

const PAGE = 60;
const FEW = 8; // largest number of devices shown without scrolling

export function ledger(jobId) {
  let newest = 0, version = 0, offset = 0;
  const input = h("input", { type: "number", min: 1, value: "", "aria-label": "Round to show", onchange: () => go(Number(input.value)) });
  const before = h("button", { type: "button", onclick: () => go(version - 1) }, "Previous");
  const after = h("button", { type: "button", onclick: () => go(version + 1) }, "Next");
  const known = h("span", { class: "muted small" }, "no round committed yet");
  const body = h("div", { class: "stack", "aria-live": "polite" });
  const element = h("section", { class: "card", "aria-label": "Ledger" },
    h("div", { class: "heading" }, h("h2", {}, "Ledger"), known),
    h("div", { class: "toolbar" }, h("label", {}, "Version", input), before, after), body);
  buttons();

  function buttons() {
    before.disabled = version <= 1;
    after.disabled = version >= newest;
    input.disabled = !newest;
    input.max = newest;
  }

  async function go(to, from = 0) {
    if (!newest || !Number.isFinite(to)) return;
    version = Math.min(newest, Math.max(1, to));
    offset = from;
    input.value = version;
    buttons();
    try {
      const found = await get(`/api/jobs/${encodeURIComponent(jobId)}/ledger/${version}?offset=${offset}&limit=${PAGE}`);
      if (found.version === version && found.offset === offset) body.replaceChildren(...entry(found, (next) => go(version, next)));
    } catch (error) {
      body.replaceChildren(h("p", { class: "muted" }, error.message));
    }
  }

  return {
    element,
    grown(versions) {
      const first = newest === 0;
      newest = Math.max(newest, versions);
      if (!newest) return;
      setText(known, `${plural(newest, "version")}; θ is their replay`);
      buttons();
      if (first) go(newest);
    },
  };
}

function entry(found, page) {
  const most = Math.max(...found.blocks.map((block) => block.directions));
  const facts = [
    ["Round", `${found.round}, committed ${moment(found.committed_at)}`],
    ["Directions", `${count(found.directions)} in ${bytes(found.bytes)}`],
    ["Variance", `${decimal(found.variance)}${found.variance_threshold ? ` (at most ${decimal(found.variance_threshold)})` : ""}`],
    ["SHA-256 of θ", h("code", {}, found.theta_digest)],
  ];
  return [
    h("dl", { class: "pairs small" }, facts.flatMap(([name, value]) => [h("dt", {}, name), h("dd", {}, value)])),
    h("details", { open: true }, h("summary", {}, `Participants: ${plural(found.participants.length, "device")}`), took(found.participants)),
    h("details", {}, h("summary", {}, "Seeds and coefficients"), ...found.blocks.map((block) => directions(block)),
      most > PAGE && h("p", { class: "toolbar" },
        h("button", { type: "button", disabled: found.offset === 0, onclick: () => page(found.offset - PAGE) }, "Earlier seeds"),
        h("button", { type: "button", disabled: found.offset + PAGE >= most, onclick: () => page(found.offset + PAGE) }, "Later seeds"))),
  ];
}

function took(participants) {
  const asked = (row) => Object.entries(row.assignments).map(([state, number]) => `${count(number)} ${words(state)}`).join(", ");
  const list = participants.length > FEW ? { class: "many", tabindex: "0", role: "group", "aria-label": "Devices of the round" } : {};
  return h("div", list, table("Participants", [
    { title: "Device", cell: (row) => row.name },
    { title: "Directions assigned", number: true, cell: (row) => count(row.directions) },
    { title: "Assignments", cell: asked },
  ], participants));
}

function directions(block) {
  const rate = decimal(block.learning_rate);
  return h("div", {},
    h("h3", {}, `${block.block}: ${plural(block.directions, "direction")}, learning rate ${rate}`),
    h("ol", { class: "coefficients mono" }, block.seeds.map((seed, at) =>
      h("li", { title: `coefficient ${block.coefficients[at]} / 2²⁴` }, h("span", { class: "muted" }, seed), h("span", {}, decimal(block.derivatives[at], 5))))));
}
