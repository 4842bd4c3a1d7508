"""What a lesson's page needs beyond Jupyter Book: figures that follow the theme, places to link to, a box of goals."""

import re
from pathlib import Path

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.errors import ExtensionError
from sphinx.transforms.post_transforms import SphinxPostTransform

from lessons import Lesson, lessons

GOALS = "After this lesson you can"


class LessonPage(SphinxPostTransform):
    """Figures into the page itself, a name for each slider and exercise, the lesson's facts and goals."""

    default_priority = 1  # before Sphinx collects and copies image files
    formats = ("html",)

    def run(self, **kwargs: object) -> None:
        self.inline_figures()
        self.name_sliders()
        if lesson := lessons().get(Path(self.env.docname).name):
            self.name_exercises()
            self.say_facts(lesson)
            self.box_goals(lesson)

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
            before, style, rest = node.astext().partition("<style>")
            style, end, after = rest.partition("</style>\n")
            if not (before.startswith("<div ") and end):
                raise ExtensionError(f"{self.env.docname}: slider {number} is not as lessons_lib.sliders writes it")
            html = f'<div id="slider-{number}" {before.removeprefix("<div ")}{after}'
            node.replace_self(nodes.raw("", html, format="html"))

    def name_exercises(self) -> None:
        """#exercise-1, …"""
        for paragraph in self.document.findall(nodes.paragraph):
            first = next((child for child in paragraph.children if child.astext()), None)  # MyST puts "" before
            if isinstance(first, nodes.strong) and (number := re.match(r"(\d+)\. ", first.astext())):
                paragraph["ids"].append(f"exercise-{number[1]}")

    def say_facts(self, lesson: Lesson) -> None:
        """Under the title: how long the lesson takes, what it has, and where its functions are described."""
        title = next(self.document.findall(nodes.title))
        name = f"lessons_lib.{lesson.module}"
        link = nodes.reference("", "", nodes.literal("", name), refuri=f"api.html#{nodes.make_id(name)}")
        facts = nodes.paragraph("", "", nodes.Text(f"{lesson.summary()} · "), link, classes=["lesson-facts"])
        title.parent.insert(title.parent.index(title) + 1, facts)

    def box_goals(self, lesson: Lesson) -> None:
        """What the reader will be able to do, in a box."""
        opening = next((one for one in self.document.findall(nodes.paragraph) if one.astext() == GOALS), None)
        if opening is None:
            raise ExtensionError(f'{lesson.stem}: expected a paragraph "{GOALS}"')
        goals = opening.next_node(nodes.bullet_list, descend=False, siblings=True)
        goals.parent.remove(goals)
        opening.replace_self(nodes.container("", opening.deepcopy(), goals, classes=["lesson-goals"]))


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_post_transform(LessonPage)
    return dict(parallel_read_safe=True, parallel_write_safe=True)
