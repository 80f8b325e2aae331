/* Small graphs: strength over steps and weight over blocks, as a line with a filled area. */
(() => {
    "use strict";
    const lycoris = (window.lycoris = window.lycoris || {});
    const SVG = "http://www.w3.org/2000/svg";
    const EDGE = 3; // so that a thick line at 0 or 1 is whole

    lycoris.svg = function (name, attributes, ...children) {
        const node = document.createElementNS(SVG, name);
        for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
        node.append(...children);
        return node;
    };

    /** Where a curve's positions lie from left (0) to right (1), and back. Noise falls from its first point to 0. */
    lycoris.axis = function (strength, steps) {
        const unit = typeof strength === "number" ? "share" : strength.unit;
        const most = unit === "sigma" ? strength.points[0].position || 1 : unit === "step" ? Math.max(1, steps - 1) : 1;
        const turn = (share) => (unit === "sigma" ? 1 - share : share);
        return { unit, most, at: (position) => turn(position / most), position: (share) => turn(share) * most };
    };

    const overNoise = (strength) => typeof strength !== "number" && strength.unit === "sigma";

    /** The strength alone, from point to point: [share, value] pairs. */
    lycoris.course = function (strength, steps) {
        if (typeof strength === "number")
            return [
                [0, strength],
                [1, strength],
            ];
        const { at } = lycoris.axis(strength, steps);
        const points = strength.points.map((one) => [at(one.position), one.value]).filter((one) => one[0] <= 1);
        const last = overNoise(strength) ? points[points.length - 1][1] : lycoris.valueAt(strength, steps - 1, steps);
        return [[0, lycoris.firstOf(strength)], ...points, [1, last]];
    };

    /** What acts in each step; where the window opens or closes the line jumps. */
    lycoris.trace = function (tag, steps) {
        const course = lycoris.course(tag.unet, steps);
        if (!lycoris.isTimed(tag) || overNoise(tag.unet) || steps < 2) return course;
        const acts = (step) => lycoris.acts(tag, step, steps);
        const inside = ([x]) => acts(Math.floor(x * (steps - 1))) && acts(Math.ceil(x * (steps - 1)));
        const line = [...course.filter(inside)];
        for (let step = 0; step < steps; step += 1) {
            const x = step / (steps - 1);
            const value = lycoris.valueAt(tag.unet, step, steps);
            const [on, before] = [acts(step), step ? acts(step - 1) : acts(step)];
            const jump =
                before && !on ? [[x, lycoris.valueAt(tag.unet, step - 1, steps)]] : on && !before ? [[x, 0]] : [];
            line.push(...jump, [x, on ? value : 0]);
        }
        return line.map((one, at) => [...one, at]).sort((one, other) => one[0] - other[0] || one[2] - other[2]);
    };

    lycoris.range = (values) => [Math.min(0, ...values), Math.max(1, ...values)];

    class Graph {
        /** `marks` are drawn above the line and moved by whoever made them. */
        constructor(width, height, name) {
            Object.assign(this, { width, height, low: 0, high: 1 });
            this.area = lycoris.svg("path", { class: "lycoris-graph-area" });
            this.zero = lycoris.svg("path", { class: "lycoris-graph-zero" });
            this.line = lycoris.svg("path", { class: "lycoris-graph-line" });
            this.marks = lycoris.svg("g", {});
            this.ghost = lycoris.svg("path", { class: "lycoris-graph-ghost" });
            const parts = [this.area, this.zero, this.ghost, this.line, this.marks];
            this.node = lycoris.svg(
                "svg",
                { viewBox: `0 0 ${width} ${height}`, class: `lycoris-graph ${name}` },
                ...parts,
            );
        }

        x(share) {
            return EDGE + share * (this.width - 2 * EDGE);
        }

        y(value) {
            return EDGE + (1 - (value - this.low) / (this.high - this.low)) * (this.height - 2 * EDGE);
        }

        /** What lies under the pointer: {share, value}, kept inside. */
        under(event) {
            const box = this.node.getBoundingClientRect();
            const inside = (value) => Math.max(0, Math.min(1, value));
            const x = ((event.clientX - box.left) / box.width) * this.width;
            const y = ((event.clientY - box.top) / box.height) * this.height;
            const down = inside((y - EDGE) / (this.height - 2 * EDGE));
            return {
                share: inside((x - EDGE) / (this.width - 2 * EDGE)),
                value: this.high - down * (this.high - this.low),
            };
        }

        through(pairs) {
            return pairs.map(([share, value]) => `${this.x(share).toFixed(1)} ${this.y(value).toFixed(1)}`).join("L");
        }

        /** `trace`: [share, value] pairs from left to right; `ghost`: what would be without a window. */
        draw(trace, ghost = null, range = null) {
            [this.low, this.high] = range || lycoris.range([...trace, ...(ghost || [])].map((one) => one[1]));
            const text = this.through(trace);
            this.ghost.setAttribute("d", ghost ? `M${this.through(ghost)}` : "");
            const zero = this.y(0).toFixed(1);
            this.line.setAttribute("d", `M${text}`);
            this.area.setAttribute(
                "d",
                `M${this.x(trace[0][0])} ${zero}L${text}L${this.x(trace[trace.length - 1][0])} ${zero}z`,
            );
            this.zero.setAttribute("d", `M${EDGE} ${zero}H${this.width - EDGE}`);
        }
    }

    lycoris.Graph = Graph;

    const end = (position) =>
        position.unit === "share"
            ? `${lycoris.number(position.value * 100)}%`
            : `${position.value}${position.unit === "sigma" ? " sigma" : " steps"}`;

    /** The schedule in words. */
    lycoris.scheduleText = function (tag) {
        if (tag.problem) return "not readable";
        const points = tag.unet.points || [];
        const over = { share: "of all steps", step: "in steps", sigma: "over the noise" };
        const strength = points.length
            ? `${points.map((one) => lycoris.number(one.value)).join(" to ")} ${over[tag.unet.unit]}`
            : `${lycoris.number(tag.unet)} in every step`;
        const { start, stop } = tag.window || {};
        const parts = [strength, start && `from ${end(start)} on`, stop && `until ${end(stop)}`];
        const around = tag.edits.length ? `; prompt editing: ${tag.edits.map(lycoris.editText).join(", ")}` : "";
        return parts.filter(Boolean).join(", ") + around;
    };
})();
