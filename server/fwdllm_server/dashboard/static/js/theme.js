// Set the chosen theme, or the system's. This is a plain script, so that it runs before the page is drawn.
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
      // The system's own theme is not stored, so that the page follows later changes of it.
      if ((next === "dark") === dark.matches) localStorage.removeItem("theme");
      else localStorage.setItem("theme", next);
    } catch { /* then the choice holds for this page only */ }
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
