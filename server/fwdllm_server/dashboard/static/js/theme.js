// Before the page is drawn: the theme that was chosen here, else the system's. A plain script, so that nothing flashes.
(() => {
  const root = document.documentElement;
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const chosen = () => {
    try { return localStorage.getItem("theme"); } catch { return null; }
  };
  const apply = () => {
    root.dataset.theme = chosen() ?? (dark.matches ? "dark" : "light");
    dispatchEvent(new Event("themechange"));
  };
  const choose = () => {
    const next = root.dataset.theme === "dark" ? "light" : "dark";
    try {
      // What the system says anyway is not remembered: it may change its mind at night.
      if ((next === "dark") === dark.matches) localStorage.removeItem("theme");
      else localStorage.setItem("theme", next);
    } catch { /* then for this page only */ }
    root.dataset.theme = next;
    dispatchEvent(new Event("themechange"));
  };
  apply();
  dark.addEventListener("change", apply);
  addEventListener("DOMContentLoaded", () => {
    const button = document.getElementById("theme");
    const name = () => { button.textContent = root.dataset.theme === "dark" ? "Light theme" : "Dark theme"; };
    name();
    button.addEventListener("click", choose);
    addEventListener("themechange", name);
  });
})();
