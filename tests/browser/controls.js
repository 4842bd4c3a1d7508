// Every control of a page, by kind: what it is, and what must be so once it has been pressed.
const shown = (e) => e.checkVisibility({ checkVisibilityCSS: true }) && e.getClientRects().length > 0;
const inWindow = (e) => {
  const { top, right, bottom, left } = e.getBoundingClientRect();
  return shown(e) && right > 0 && left < innerWidth && bottom > 0 && top < innerHeight;
};
const sidebar = (name) => {
  const [here, modal] = ["", "-modal"].map((end) => document.querySelector(`#pst-${name}-sidebar${end}`));
  return modal.open ? "drawer" : inWindow(here) && here.childElementCount > 0 ? "shown" : "hidden";
};
const toggle = (name) => (_, before) => before === undefined ? sidebar(name)
  : innerWidth >= 992 ? sidebar(name) === { shown: "hidden", hidden: "shown" }[before]
  : sidebar(name) === "drawer" && inWindow(document.querySelector(`#pst-${name}-sidebar-modal a[href]`));
const root = document.documentElement;
const query = () => document.querySelector("main form.bd-search input") ?? document.querySelector("#pst-search-dialog input");
const here = (a) => a.getAttribute("href").startsWith("#");
const place = (a) => document.getElementById(decodeURIComponent(a.hash.slice(1)));

// What may be wider than the window: keys scroll what has the focus.
const SCROLLERS = "pre, .formula, .cell_output > .output, .pst-scrollable-table-container";
const overflows = (e) => e.scrollWidth > e.clientWidth + 1;
window.settled = () => [...document.querySelectorAll(SCROLLERS)].every((e) => !overflows(e) || e.tabIndex === 0);

// [kind, selector, before its press: a value to compare with; afterwards, given that value: whether it has worked]
window.KINDS = [
  ["skip link", ".skip-link a", (a, before) => before === undefined ? location.hash : location.hash === a.hash],
  ["back to top", "#pst-back-to-top", (_, before) => before === undefined ? scrollY : scrollY === 0],
  ["sidebar", ".primary-toggle", toggle("primary")],
  ["contents", ".secondary-toggle", toggle("secondary")],
  ["search", ".search-button__button", (_, before) =>
    before === undefined ? 0 : document.activeElement === query() && inWindow(query())],
  ["theme", ".theme-switch-button", (_, before) =>
    before === undefined ? root.dataset.mode : root.dataset.mode !== before && !!root.dataset.theme],
  ["fullscreen", ".btn-fullscreen-button", (_, before) =>
    before === undefined ? !!document.fullscreenElement : !!document.fullscreenElement !== before],
  ["menu", "[data-bs-toggle=dropdown]", (e, before) =>
    before === undefined ? 0 : e.ariaExpanded === "true" && [...e.nextElementSibling.querySelectorAll("a, button")].every(inWindow)],
  ["print", ".btn-download-pdf-button", (_, before) => before === undefined ? (window.printed = 0) : window.printed === 1],
  ["copy", ".copybtn", (e, before) => before === undefined ? (window.copied = null)
    : window.copied === document.querySelector(e.dataset.clipboardTarget).textContent.trimEnd()],
  ["fold", "details > summary:first-of-type", (e, before) =>
    before === undefined ? e.parentElement.open : e.parentElement.open !== before],
  ["slider", ".lesson-slider input[type=range]", (e, before) => {
    const figure = e.closest(".lesson-slider").querySelector("svg"); // which parts of it are seen
    const said = [e.value, e.ariaValueText, e.nextElementSibling.textContent];
    const parts = [...figure.querySelectorAll("[data-frames]")].map((part) => +shown(part)).join("");
    const now = [...said, parts];
    return before === undefined ? now : now.every((value, i) => value !== before[i]) && said[1] === said[2];
  }],
  ["row of a slider", ".lesson-slider label:has(> input)", () => true],
  ["query", "form.bd-search input[type=search]", (e, before) =>
    before === undefined ? (window.asked = 0) : window.asked === e.value],
  ["marks", "a[href='javascript:SphinxHighlight.hideSearchWords()']", (_, before) =>
    before === undefined ? 0 : [...document.querySelectorAll(".highlighted")].every((e) => !shown(e))],
  ["heading", "a.headerlink[href^='#']", (a, before) => before === undefined ? 0 : location.hash === a.hash && inWindow(place(a))],
  ["place", "a[href^='#']", (a, before) => before === undefined ? 0
    : a.hash ? location.hash === a.hash && !!place(a) && inWindow(place(a)) : scrollY === 0],
  ["page", "a[href]:not([href*=':'])", (a, before) => before === undefined ? (window.followed = 0) : window.followed === a],
  ["other host", "a[href^='https://']", (a, before) => before === undefined ? (window.followed = 0) : window.followed === a],
  ["scroller", SCROLLERS.split(", ").map((e) => `${e}[tabindex='0']`).join(), (e, before) => {
    if (before === undefined) return e.scrollTo(0, 0);
    e.scrollTo(9, 0);
    return !overflows(e) || e.scrollLeft > 0;
  }],
];
const CONTROLS = "a[href], area[href], button, input:not([type=hidden]), select, textarea, summary, label, iframe, embed, "
  + "object, audio, video, [role=button], [role=link], [role=slider], [role=switch], [role=checkbox], [role=tab], "
  + "[role=menuitem], [tabindex]:not([tabindex='-1']), [onclick], [contenteditable], [draggable=true]";
// A link at a heading is seen once the mouse is near.
const there = (e) => shown(e) || e.matches(".headerlink");

// The controls inside an element, as their kinds; `window.found` has the elements.
const kinds = new Map();
window.find = (inside) => {
  const named = [...inside.querySelectorAll(CONTROLS)].filter(there);
  const pointed = [...inside.querySelectorAll("*")].filter((e) => // that looks like one, and has no such element
    getComputedStyle(e).cursor === "pointer" && !e.closest(CONTROLS) && shown(e));
  window.found = [...named, ...pointed];
  return window.found.map((e) => {
    kinds.set(e, KINDS.find(([, selector]) => e.matches(selector)));
    return kinds.get(e)?.[0] ?? `unknown: ${e.outerHTML.slice(0, 200)}`;
  });
};
const works = (e) => kinds.get(e)[2];
// Bring a control into the window; where its middle is, and whether what is seen there is the control.
window.near = (e) => {
  e.scrollIntoView({ block: "center", behavior: "instant" });
  const box = [...e.getClientRects()].find(({ width, height }) => width && height);
  if (!box) return null;
  const point = [box.left + box.width / 2, box.top + box.height / 2];
  const top = document.elementFromPoint(...point);
  return top && (e.contains(top) || top.contains(e) && top.closest("label, summary, a")) ? point : null;
};
window.steady = async (e) => { // where it stays: what lies above may grow when it is first shown
  for (let was, i = 0; i < 100; i += 1) {
    const point = near(e);
    if (point && String(point) === was) return point;
    was = String(point);
    await new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)));
  }
  return null;
};
window.before = (e) => { window.was = works(e)(e); };
window.after = (e) => works(e)(e, window.was) === true;
// Press each of some controls from the page itself (a fold twice); those that do nothing, are covered, or get no focus.
window.pressAll = (many) => found.filter((e) => many.includes(kinds.get(e)[0])).filter((e) => {
  const hidden = kinds.get(e)[0] === "heading" && !shown(e); // which only the mouse brings out
  const point = hidden || near(e);
  e.focus({ preventScroll: true });
  const focused = hidden || document.activeElement === e || e.matches(SCROLLERS); // for which see `settled`
  const worked = Array.from({ length: e.matches("summary") ? 2 : 1 }, () => {
    before(e);
    e.dispatchEvent(new MouseEvent("click", { bubbles: true, cancelable: true })); // an SVG's link has no click()
    return after(e);
  });
  return !(point && focused && worked.every(Boolean));
}).map((e) => e.outerHTML.slice(0, 200));
// Everything as it was.
window.reset = () => {
  document.querySelectorAll("dialog[open]").forEach((dialog) => dialog.close());
  document.querySelectorAll(".pst-sidebar-hidden").forEach((e) => e.classList.remove("pst-sidebar-hidden"));
  document.querySelectorAll("[data-bs-toggle=dropdown].show").forEach((e) => bootstrap.Dropdown.getInstance(e).hide());
  document.activeElement.blur();
  return document.fullscreenElement ? document.exitFullscreen() : null;
};
window.print = () => { window.printed += 1; };
addEventListener("copy", () => { window.copied = document.activeElement.value ?? String(getSelection()); });
addEventListener("submit", (event) => { window.asked = new FormData(event.target).get("q"); event.preventDefault(); });
addEventListener("click", (event) => { // last of all: what the browser would follow
  const link = event.target.closest("a[href]");
  if (!link || here(link) || event.defaultPrevented || link.protocol === "javascript:") return;
  window.followed = link;
  event.preventDefault();
});
