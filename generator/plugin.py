"""MkDocs hooks, and nothing else: a built site goes to MkDocs in memory. The one file that knows MkDocs."""

from __future__ import annotations

import html as entities
import logging
from collections.abc import Mapping
from pathlib import Path

from mkdocs.config import config_options
from mkdocs.config.base import Config
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.livereload import LiveReloadServer
from mkdocs.plugins import BasePlugin, event_priority
from mkdocs.structure.files import File, Files, InclusionLevel
from mkdocs.structure.pages import Page

from generator import __version__, markup, policy, safe, search
from generator.bounded import Bounded
from generator.build import Built, build
from generator.drawings import clean
from generator.execute import Limits
from generator.fresh import Fresh
from generator.rerun import Reruns
from generator.schema import About
from generator.site import SCRIPTS, STYLES

log = logging.getLogger("mkdocs.plugins.papernotes")
_ASKS = ' data-md-component="source"'
"""What makes the theme's script ask GitHub for the stars of the repository that a page links to."""


class PapernotesConfig(Config):
    jobs = config_options.Optional(config_options.Type(int))
    timeout = config_options.Type((int, float), default=300)
    execute = config_options.Type(bool, default=True)
    confined = config_options.Type(bool, default=False)
    discussion = config_options.Type(str, default="")


class PapernotesPlugin(BasePlugin[PapernotesConfig]):
    """Build the notes and hand them over; say what is wrong as MkDocs warnings, which `--strict` turns into failure."""

    def __init__(self) -> None:
        self.serving = False
        self.in_place = False
        self.fresh: Fresh | None = None
        self.site_dir = ""
        self.built: Built | None = None
        self.reruns: Reruns | None = None
        self.heads: dict[str, str] = {}
        self.file = ""
        self.drawings: list[str] = []
        """Of the page that MkDocs is turning into HTML."""
        self.notes: list[File] = []
        """The pages that the search finds."""
        self.written: set[str] = set()
        """The pages that show what somebody wrote."""
        self.policy = policy.Policy()

    def on_startup(self, *, command: str, dirty: bool) -> None:
        self.serving = command == "serve"
        self.in_place = self.serving or dirty  # MkDocs serves from a folder of its own; a dirty build wants the old one

    def on_config(self, config: MkDocsConfig) -> MkDocsConfig:
        if STYLES not in config.extra_css:
            config.extra_css.insert(0, STYLES)
        config.extra_javascript += [script for script in SCRIPTS if script not in config.extra_javascript]
        if not self.in_place:
            self.fresh = Fresh(Path(config.site_dir))
            self.site_dir, config.site_dir = config.site_dir, str(self.fresh.folder)
        # An extension is named in mkdocs.yml, or given as it is here: MkDocs hands both on to Python-Markdown.
        config.markdown_extensions.append(Bounded(lambda what: log.warning("%s:1: %s", self.file, what)))
        return config

    def on_files(self, files: Files, *, config: MkDocsConfig) -> Files:
        root = Path(config.config_file_path or "mkdocs.yml").resolve().parent
        limits = Limits(timeout=float(self.config.timeout), confined=self.config.confined)
        self.built = built = build(
            root,
            # While serving nobody waits for a run: it goes on beside the readers, and pages follow when it is done.
            execute=self.config.execute and not self.serving,
            outdated=self.serving and self.config.execute,
            jobs=self.config.jobs,
            limits=limits,
            watch=self._tell,
            about=About(
                name=config.site_name,
                description=config.site_description or "",
                url=config.site_url or "",
                directory_urls=config.use_directory_urls,
                discussion=self.config.discussion,
            ),
        )
        if self.serving and self.config.execute:
            self.reruns = self.reruns or Reruns(root, limits=limits, jobs=self.config.jobs, watch=self._tell)
            self.reruns.want(built.runs.outdated)
        for problem in built.problems:
            log.warning("%s", problem)
        for failure in built.runs.failures.values():
            log.warning("snippets/%s %s: %s\n%s", failure.slug, failure.outcome, failure.error, failure.tail.rstrip())
        self.heads = {page.path: page.head for page in built.pages}
        self.written = {page.path for page in built.pages if page.source}
        self._withhold(files, config)
        for page in built.pages:
            self._place(
                files,
                File.generated(config, page.path, content=page.markdown, inclusion=InclusionLevel.NOT_IN_NAV),
                page.source,
            )
        for asset in built.assets:
            if asset.source:
                self._place(files, File.generated(config, asset.path, abs_src_path=str(asset.source)), "")
            else:
                self._place(files, File.generated(config, asset.path, content=asset.text), "")
        known = (files.get_file_from_path(f"{note.slug}.md") for note in built.library.notes)
        self.notes = [file for file in known if file]
        return files

    def on_page_markdown(self, markdown: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:
        # The theme writes these as they are.
        page.meta = {
            name: entities.escape(value) if isinstance(value, str) else value
            for name, value in page.meta.items()
            if name in ("title", "description", "hide")
        }
        self.file = page.file.src_uri
        text, self.drawings = markup.without_drawings(markdown)
        return text

    def on_page_content(self, html: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:
        if page.file.src_uri in self.written:
            html = safe.page(html)
        return markup.with_drawings(html, [clean(drawing).svg for drawing in self.drawings])

    def on_post_page(self, output: str, *, page: Page, config: MkDocsConfig) -> str:
        return self._whole(output.replace("</head>", self.heads.get(page.file.src_uri, "") + "</head>", 1))

    def on_post_template(self, output_content: str, *, template_name: str, config: MkDocsConfig) -> str:
        if template_name == policy.EMPTY:
            self.policy.learn(output_content)
        return self._whole(output_content) if template_name.endswith(".html") else output_content

    def _whole(self, page: str) -> str:
        return self.policy.put(page.replace(_ASKS, ""))

    @event_priority(-100)  # what other plugins write belongs to the site
    def on_post_build(self, *, config: MkDocsConfig) -> None:
        self._index(config)
        if self.fresh:
            self.fresh.put()
            config.site_dir = self.site_dir
            log.info("papernotes: the site is in %s", self.site_dir)

    def on_build_error(self, *, error: Exception) -> None:
        in_place = self.fresh is None or self.fresh.folder == self.fresh.site
        if self.fresh:
            self.fresh.drop()
        if isinstance(error, OSError) and not self.serving:
            what = f"cannot write {error.filename2 or error.filename or self.site_dir}: {error.strerror or error}"
            left = "the site is not whole: build it again" if in_place else "the site stays as it was"
            raise PluginError(f"{what}; make room, or choose another place with -d; {left}")

    def _index(self, config: MkDocsConfig) -> None:
        pages = ((file.url, Path(file.abs_dest_path).read_text(encoding="utf-8")) for file in self.notes)
        try:
            search.index(pages, Path(config.site_dir) / search.FOLDER)
        except RuntimeError as error:
            log.warning("%s", error)

    def on_serve(self, server: LiveReloadServer, *, config: MkDocsConfig, builder: object) -> LiveReloadServer:
        root = Path(config.config_file_path or "mkdocs.yml").resolve().parent
        for folder in ("snippets", "generator"):
            if (root / folder).is_dir():
                server.watch(str(root / folder))
        if self.reruns:
            self.reruns.tell()
            if self.reruns.news.exists():
                server.watch(str(self.reruns.news))
        server.set_app(policy.while_serving(server.get_app()))
        return server

    def on_shutdown(self) -> None:
        if self.reruns:
            self.reruns.stop()

    def _withhold(self, files: Files, config: MkDocsConfig) -> None:
        """Take away what lies in notes/ and was not read: MkDocs would publish it as it is, and for the theme's own file."""
        theme = (config.theme.get("logo"), config.theme.get("favicon"))
        named = {str(one) for one in (*config.extra_css, *config.extra_javascript, *config.extra_templates, *theme)}
        for file in list(files):
            if file.src_dir == config.docs_dir and not file.generated_by and file.src_uri not in named:
                files.remove(file)

    def _place(self, files: Files, file: File, source: str) -> None:
        if old := files.get_file_from_path(file.src_uri):
            files.remove(old)
        file.generated_by = f"papernotes {__version__}"
        # A page made from one file of the project keeps its edit link.
        file.edit_uri = source.removeprefix("notes/") if source.startswith("notes/") else None
        files.append(file)

    def _tell(self, kind: str, event: Mapping) -> None:
        if kind == "unconfined":
            log.info("papernotes: on this system a snippet can %s", " and ".join(event["freedoms"]))
        elif kind == "started":
            log.info("papernotes: running %s", event["slug"])
        elif kind == "finished":
            log.info("papernotes: %s %s in %.1f s", event["slug"], event["outcome"], event["seconds"])
