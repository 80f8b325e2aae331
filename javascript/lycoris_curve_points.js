/* Number fields for the points of a curve: the keyboard alternative to dragging. */
(() => {
    "use strict";
    const lycoris = (window.lycoris = window.lycoris || {});
    const el = (...args) => lycoris.el(...args);

    /** Shares are shown as percents, whatever the tag has. */
    const shown = (position, unit) => lycoris.number(unit === "share" ? position * 100 : position);

    function line(timing, at) {
        const number = (what, work) => {
            const input = el("input.lycoris-weight-input", { type: "number", step: "any" });
            input.addEventListener("change", () => {
                const value = input.valueAsNumber;
                if (Number.isFinite(value))
                    timing.bend((text, tag) => lycoris.movedPoint(text, at, work(value, tag.unet.unit)));
                else timing.row.again();
            });
            return { input, name: (label) => input.setAttribute("aria-label", `Point ${at + 1}: ${what(label)}`) };
        };
        const share = (value, unit) => ({ position: unit === "share" ? value / 100 : value });
        const place = number((label) => label, share);
        const value = number(
            () => "strength",
            (given) => ({ value: given }),
        );
        const out = lycoris.iconButton("close", `Remove point ${at + 1}`, {
            onclick: () => timing.bend((text) => lycoris.removedPoint(text, at)),
        });
        const node = el("li.lycoris-point", {}, place.input, value.input, out);
        const fill = (point, unit) => {
            place.name(lycoris.placeLabel(unit));
            value.name();
            place.input.min = 0;
            lycoris.show(place.input, shown(point.position, unit));
            lycoris.show(value.input, lycoris.number(point.value));
        };
        return { node, fill };
    }

    /** {node, fill(tag)}: the list is made anew only when the number of points changes. */
    lycoris.points = function (timing) {
        const list = el("ol.lycoris-point-list");
        const head = el("div.lycoris-point-head", { "aria-hidden": "true" });
        const button = (label, onclick) => el("button.lycoris-button", { type: "button", onclick }, label);
        const begin = button("Make a curve", () => timing.begin());
        const add = button("Add a point", () =>
            timing.bend((text, tag) => lycoris.addedPoint(text, lycoris.gapOf(tag.unet, timing.row.page.steps() - 1))),
        );
        const flat = button("Back to one number", () =>
            timing.bend((text, tag) => lycoris.number(lycoris.firstOf(tag.unet))),
        );
        const node = el("div.lycoris-points", {}, head, list, el("div.lycoris-line", {}, begin, add, flat));
        let lines = [];
        const fill = (tag) => {
            const points = tag.unet.points || [];
            const { unit } = tag.unet;
            begin.hidden = points.length > 0;
            add.hidden = flat.hidden = head.hidden = !points.length;
            head.replaceChildren(
                ...(unit ? [lycoris.placeLabel(unit), "Strength"] : []).map((text) => el("span", {}, text)),
            );
            if (lines.length > points.length) for (const one of lines.splice(points.length)) one.node.remove();
            while (lines.length < points.length) {
                lines.push(line(timing, lines.length));
                list.append(lines[lines.length - 1].node);
            }
            lines.forEach((one, at) => one.fill(points[at], unit));
        };
        return { node, fill };
    };
})();
