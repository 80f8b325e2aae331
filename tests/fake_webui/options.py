"""The host's settings."""

from __future__ import annotations


class OptionInfo:
    def __init__(  # noqa: PLR0917
        self,
        default=None,
        label="",
        component=None,
        component_args=None,
        onchange=None,
        section=None,
        refresh=None,
        comment_before="",
        comment_after="",
        infotext=None,
        restrict_api=False,
        category_id=None,
    ):
        self.default, self.label, self.section = default, label, section
        self.component, self.component_args = component, component_args

    def info(self, info):
        return self


class Options:
    """Unknown keys raise, declared ones have their default."""

    def __init__(self, templates):
        self.__dict__["templates"], self.__dict__["data"] = templates, {}

    def __getattr__(self, key):
        if key in self.data:
            return self.data[key]
        if key in self.templates:
            return self.templates[key].default
        raise AttributeError(key)

    def __setattr__(self, key, value):
        self.data[key] = value
