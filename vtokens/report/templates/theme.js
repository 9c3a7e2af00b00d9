"use strict";
(() => {
  // Light or dark, as the system has it until somebody says otherwise. The page of the server has this too.
  const root = document.documentElement;
  const theme = document.querySelector(".theme");
  const dark = () => root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  const name = () => { theme.textContent = dark() ? "Light" : "Dark"; };
  try { const saved = localStorage.getItem("vtokens-theme"); if (saved) root.dataset.theme = saved; } catch { /* no storage */ }
  theme.addEventListener("click", () => {
    root.dataset.theme = dark() ? "light" : "dark";
    try { localStorage.setItem("vtokens-theme", root.dataset.theme); } catch { /* no storage */ }
    name();
  });
  theme.hidden = false;
  name();
})();
