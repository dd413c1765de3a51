"use strict";
// Before anything is drawn, so that a remembered choice does not flash.
(() => {
  const key = "diffusion-dfl-report-theme";
  const root = document.documentElement;
  const dark = matchMedia("(prefers-color-scheme: dark)");
  // A browser may refuse storage to a file; the choice then lasts as long as the page.
  const remembered = () => {
    try { return localStorage.getItem(key); } catch { return null; }
  };
  const remember = (choice) => {
    try { localStorage.setItem(key, choice); } catch { /* as above */ }
  };
  const isDark = () => (root.dataset.theme ? root.dataset.theme === "dark" : dark.matches);
  const choice = remembered();
  if (choice === "dark" || choice === "light") root.dataset.theme = choice;
  document.addEventListener("DOMContentLoaded", () => {
    const button = document.getElementById("theme");
    const show = () => button.setAttribute("aria-pressed", String(isDark()));
    button.addEventListener("click", () => {
      root.dataset.theme = isDark() ? "light" : "dark";
      remember(root.dataset.theme);
      show();
    });
    dark.addEventListener("change", show);
    show();
  });
})();
