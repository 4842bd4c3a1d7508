{
  // The theme's script does the same, but after the page is shown, light and with other lines. On a first visit it also
  // warns that no mode is set, and then takes this one. A page that Back brings as it was left may have been left in the
  // other theme. Paper is light.
  const page = document.documentElement;
  const paper = matchMedia("print");
  const setTheme = (light = paper.matches) => {
    page.dataset.mode = localStorage.getItem("mode") || "auto";
    const dark = matchMedia("(prefers-color-scheme: dark)").matches;
    const chosen = page.dataset.mode === "auto" ? (dark ? "dark" : "light") : page.dataset.mode;
    page.dataset.theme = light ? "light" : chosen;
  };
  setTheme();
  addEventListener("pageshow", () => setTheme());
  paper.addEventListener("change", () => setTheme());

  // On paper everything is open; what was folded before is so afterwards. A browser may announce paper twice.
  const opened = [];
  addEventListener("beforeprint", () => {
    setTheme(true);
    for (const fold of document.querySelectorAll("details:not([open])")) {
      fold.open = true;
      opened.push(fold);
    }
  });
  addEventListener("afterprint", () => {
    setTheme(false);
    opened.splice(0).forEach((fold) => { fold.open = false; });
  });

  // A page that was saved holds what its scripts had added, and would add again, and what was open: the theme keeps an
  // open sidebar's contents in a dialog. This comes before the theme's scripts run.
  document.addEventListener("readystatechange", () => {
    document.querySelectorAll(".copybtn, body > .tooltip").forEach((e) => e.remove());
    for (const dialog of document.querySelectorAll("dialog[open]")) {
      dialog.open = false;
      const sidebar = document.getElementById(dialog.id.replace("-modal", ""));
      if (sidebar === dialog) continue;
      sidebar.append(...dialog.childNodes);
      [sidebar.className, dialog.className] = [dialog.className, ""];
    }
  }, { once: true });

  // A link of the contents leads to a place that its own drawer would cover.
  document.addEventListener("click", (event) => {
    event.target.closest("dialog a[href^='#']")?.closest("dialog").close();
  });

  // From a file no page can be fetched: the search would try, once for each page that it finds.
  document.addEventListener("DOMContentLoaded", () => {
    DOCUMENTATION_OPTIONS.SHOW_SEARCH_SUMMARY &&= location.protocol !== "file:";
  });

  // What is wider than its box takes the focus, so that keys can scroll it. The theme looks for such boxes whenever the
  // window has changed, but what is folded has no width until it is opened.
  document.addEventListener("toggle", () => dispatchEvent(new Event("resize")), true);
}
