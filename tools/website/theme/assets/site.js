// The theme puts the buttons of each code block into a landmark of its own, all without a name: these are no landmarks.
const still = () => document.querySelectorAll("nav.md-code__nav:not([role])").forEach((one) => one.setAttribute("role", "none"));
new MutationObserver(still).observe(document.documentElement, { childList: true, subtree: true });
still();
