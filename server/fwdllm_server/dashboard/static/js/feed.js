// The live stream. Browsers reconnect when a connection breaks, but not when a restarting server refuses it. In that
// case this class reconnects.

const AGAIN_MS = 2000;

export class Feed {
  #source = null;
  #timer = 0;

  constructor(handlers, onState) {
    this.handlers = handlers;
    this.onState = onState;
  }

  // Listen to the overview, and to one job if it is given.
  open(job) {
    this.close();
    this.job = job;
    const source = new EventSource(`/api/events${job ? `?job=${encodeURIComponent(job)}` : ""}`);
    this.#source = source;
    source.onopen = () => this.onState("live");
    source.onerror = () => {
      this.onState("lost");
      if (source.readyState === EventSource.CLOSED) this.#timer = setTimeout(() => this.open(job), AGAIN_MS);
    };
    for (const [name, handle] of Object.entries(this.handlers)) {
      source.addEventListener(name, (event) => handle(JSON.parse(event.data)));
    }
  }

  close() {
    clearTimeout(this.#timer);
    this.#source?.close();
  }
}

export async function get(path) {
  const response = await fetch(path, { headers: { Accept: "application/json" } });
  const found = await response.json();
  if (!response.ok) throw new Error(found.error ?? response.statusText);
  return found;
}
