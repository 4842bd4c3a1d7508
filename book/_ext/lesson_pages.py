"""What a lesson's page needs beyond Jupyter Book: figures that follow the theme, places to link to, a box of goals."""

import re
from pathlib import Path

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.config import Config
from sphinx.transforms.post_transforms import SphinxPostTransform
from sphinx_thebe import init_thebe_core, update_thebe_context

from lessons import LESSONS, Lesson

# The theme's script does the same, but after the page is shown, light and with other lines. On a first visit it
# also warns that no mode is set, and then takes this one. A page that Back brings as it was left may have been left
# in the other theme.
THEME = """
const setTheme = () => {
  const page = document.documentElement.dataset;
  page.mode = localStorage.getItem("mode") || "auto";
  const dark = matchMedia("(prefers-color-scheme: dark)").matches;
  page.theme = page.mode === "auto" ? (dark ? "dark" : "light") : page.mode;
};
setTheme();
addEventListener("pageshow", setTheme);
"""
# On paper everything is open; what was folded before is so afterwards. A browser may announce paper twice.
PRINT = """
{
  const opened = [];
  addEventListener("beforeprint", () => {
    for (const fold of document.querySelectorAll("details:not([open])")) {
      fold.open = true;
      opened.push(fold);
    }
  });
  addEventListener("afterprint", () => opened.splice(0).forEach((fold) => { fold.open = false; }));
}
"""
# A page that was saved holds what its scripts had added, and would add again, and what was open: the theme keeps an
# open sidebar's contents in a dialog. This comes before the theme's scripts run.
SAVED = """
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
"""
# A link of the contents leads to a place that its own drawer would cover.
DRAWER = """
document.addEventListener("click", (event) => {
  event.target.closest("dialog a[href^='#']")?.closest("dialog").close();
});
"""
# From a file no page can be fetched: the search would try, once for each page that it finds.
SEARCH = """
DOCUMENTATION_OPTIONS.SHOW_SEARCH_SUMMARY &&= location.protocol !== "file:";
"""
# What is wider than its box takes the focus, so that keys can scroll it. The theme looks for such boxes whenever the
# window has changed, but what is folded has no width until it is opened.
FOLDS = """
document.addEventListener("toggle", () => dispatchEvent(new Event("resize")), true);
"""
GOALS = "After this lesson you can"


class LessonPage(SphinxPostTransform):
    """Figures into the page itself, a name for each slider and exercise, the lesson's facts and goals."""

    default_priority = 1  # before Sphinx collects and copies image files
    formats = ("html",)

    def run(self, **kwargs: object) -> None:
        self.inline_figures()
        self.name_sliders()
        stem = Path(self.env.docname).name
        if stem in LESSONS:
            self.name_exercises()
            self.box_goals(Lesson(Path(self.env.srcdir, "book"), stem))

    def inline_figures(self) -> None:
        """An <img> would see no theme, and MyST-NB gives it no alternative text."""
        for image in list(self.document.findall(nodes.image)):
            path = Path(self.env.srcdir, image["uri"])
            if path.suffix == ".svg" and (svg := path.read_text("utf-8")).startswith("<svg") and "lesson-figure" in svg:
                image.replace_self(nodes.raw("", svg, format="html"))

    def name_sliders(self) -> None:
        """#slider-1, …; their style stands in the page's own sheet, where the standard wants it."""
        found = [node for node in self.document.findall(nodes.raw) if 'class="lesson-slider"' in node.astext()]
        for number, node in enumerate(found, 1):
            html = re.sub(r"<style>.*?</style>\n", "", node.astext(), count=1, flags=re.DOTALL)
            html = html.replace("<div ", f'<div id="slider-{number}" ', 1)
            node.replace_self(nodes.raw("", html, format="html"))

    def name_exercises(self) -> None:
        """#exercise-1, …"""
        for paragraph in self.document.findall(nodes.paragraph):
            first = next((child for child in paragraph.children if child.astext()), None)  # MyST puts "" before
            if isinstance(first, nodes.strong) and (number := re.match(r"(\d+)\. ", first.astext())):
                paragraph["ids"].append(f"exercise-{number[1]}")

    def box_goals(self, lesson: Lesson) -> None:
        """Facts under the title; what the reader will be able to do, in a box."""
        title = next(self.document.findall(nodes.title))
        facts = nodes.paragraph("", lesson.facts(), classes=["lesson-facts"])
        title.parent.insert(title.parent.index(title) + 1, facts)
        goals = next(self.document.findall(nodes.bullet_list))
        opening = goals.parent[goals.parent.index(goals) - 1]
        text = opening.children[-1]
        if not text.astext().endswith(GOALS):
            raise ValueError(f'{lesson.stem}: expected an opening that ends in "{GOALS}", got "{text.astext()}"')
        opening.replace(text, nodes.Text(text.astext().removesuffix(GOALS).rstrip()))
        box = nodes.container("", nodes.paragraph("", GOALS), goals.deepcopy(), classes=["lesson-goals"])
        goals.replace_self(box)


def remove_thebe(app: Sphinx, config: Config) -> None:
    """Take out what would run code on a server elsewhere: our pages ask no other host.

    Its script is also loaded twice, and throws for it.
    """
    for listeners in app.events.listeners.values():
        for listener in list(listeners):
            if listener.handler in (init_thebe_core, update_thebe_context):
                app.disconnect(listener.id)


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("config-inited", remove_thebe)
    app.add_post_transform(LessonPage)
    app.add_css_file("slider.css")
    app.add_js_file(None, body=THEME + PRINT + SAVED + DRAWER + SEARCH + FOLDS)
    return dict(parallel_read_safe=True, parallel_write_safe=True)
