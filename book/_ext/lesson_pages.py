"""What our pages need beyond Jupyter Book: figures that follow the theme, no Thebe."""

from pathlib import Path

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.config import Config
from sphinx.transforms.post_transforms import SphinxPostTransform
from sphinx_thebe import init_thebe_core, update_thebe_context


class InlineFigures(SphinxPostTransform):
    """Put the lessons' SVG into the page itself.

    An <img> would see no theme, and MyST-NB gives it no alternative text.
    """

    default_priority = 1  # before Sphinx collects and copies image files
    formats = ("html",)

    def run(self, **kwargs: object) -> None:
        for image in list(self.document.findall(nodes.image)):
            path = Path(self.env.srcdir, image["uri"])
            if (
                path.suffix == ".svg"
                and (svg := path.read_text("utf-8")).startswith("<svg")
                and "lesson-figure" in svg
            ):
                image.replace_self(nodes.raw("", svg, format="html"))


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
    app.add_post_transform(InlineFigures)
    # On a first visit the theme warns that no mode is set, and then takes this one.
    app.add_js_file(None, body='document.documentElement.dataset.mode ||= "auto";')
    return dict(parallel_read_safe=True, parallel_write_safe=True)
