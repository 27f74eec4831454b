// Draws the diagrams of a page, in the colours of its theme, and again when the reader changes the theme.
(() => {
  const MIN_SCALE = 0.65;
  const texts = new Map();
  const system = window.matchMedia("(prefers-color-scheme: dark)");
  const dark = () => {
    const chosen = document.body.dataset.theme;
    return chosen === "dark" || (chosen !== "light" && system.matches);
  };
  const draw = async () => {
    mermaid.initialize({
      startOnLoad: false,
      theme: dark() ? "dark" : "default",
      securityLevel: "strict",
      sequence: { wrap: true, width: 170, height: 45, actorMargin: 12 },
    });
    for (const [element, text] of texts) {
      element.textContent = text;
      element.removeAttribute("data-processed");
    }
    await mermaid.run({ nodes: [...texts.keys()] });
    // A wide diagram scrolls rather than shrinks until nobody can read it.
    for (const element of texts.keys()) {
      const picture = element.querySelector("svg");
      picture.style.minWidth = `${Math.round(MIN_SCALE * picture.viewBox.baseVal.width)}px`;
    }
  };
  document.addEventListener("DOMContentLoaded", () => {
    for (const element of document.querySelectorAll("pre.mermaid")) texts.set(element, element.textContent);
    let last = dark();
    const changed = () => {
      if (dark() !== last) {
        last = dark();
        draw();
      }
    };
    new MutationObserver(changed).observe(document.body, { attributeFilter: ["data-theme"] });
    system.addEventListener("change", changed);
    draw();
  });
})();
