/* Edits to a curve's text: move, add or remove one point and keep the others as written. */
(() => {
    "use strict";
    const lycoris = (window.lycoris = window.lycoris || {});

    const rounded = (value) => String(Math.round(value * 10000) / 10000);

    const pieces = (text) => text.split(/([,;])/); // every second one is a separator

    /** How a position is written in this piece: "%", "sigma", "σ" or nothing. */
    const markOf = (piece) => (/(%|sigma|σ)\s*$/.exec(piece) || ["", ""])[1];

    const placed = (position, mark) => rounded(mark === "%" ? position * 100 : position) + mark;

    function read(text) {
        try {
            return lycoris.readCurve(text);
        } catch (error) {
            if (error instanceof lycoris.BadTag) return null;
            throw error;
        }
    }

    /** The text counts only if its points are of the kind they were: steps up to 1 would be shares. */
    function checked(text, unit, count) {
        const curve = read(text);
        const alike = curve && (curve.unit === unit || count === 1); // one point is the same everywhere
        return alike && curve.points.length === count ? text : null;
    }

    /** `index` counts the points as they are passed. Null where this point cannot be there. */
    lycoris.movedPoint = function (text, index, { value, position }) {
        const curve = lycoris.readCurve(text);
        const point = curve.points[index];
        const all = pieces(text);
        const piece = all[point.piece * 2];
        const [, left, old, sign, place, right] = /^(\s*)(.*?)(\s*[@~]\s*)(.*?)(\s*)$/s.exec(piece);
        const number = value === undefined ? old : rounded(value);
        const where = position === undefined ? place : placed(position, markOf(place));
        all[point.piece * 2] = left + number + sign + where + right;
        return checked(all.join(""), curve.unit, curve.points.length);
    };

    lycoris.addedPoint = function (text, { value, position }) {
        const curve = lycoris.readCurve(text);
        const way = curve.unit === "sigma" ? -1 : 1;
        const before = curve.points.filter((one) => way * one.position <= way * position).pop();
        const all = pieces(text);
        const model = all[(before || curve.points[0]).piece * 2];
        const mark = markOf(model) || (curve.unit === "sigma" ? "sigma" : "");
        const made = `${rounded(value)}${model.includes("~") ? "~" : "@"}${placed(position, mark)}`;
        const separator = all[1] || ",";
        if (before) all[before.piece * 2] += separator + made;
        else all[0] = made + separator + all[0];
        return checked(all.join(""), curve.unit, curve.points.length + 1);
    };

    /** The last point leaves a number. */
    lycoris.removedPoint = function (text, index) {
        const curve = lycoris.readCurve(text);
        if (curve.points.length === 1) return rounded(curve.points[0].value);
        const at = curve.points[index].piece * 2;
        const all = pieces(text);
        all.splice(at ? at - 1 : 0, 2);
        return checked(all.join(""), curve.unit, curve.points.length - 1);
    };

    /** A curve that is what the number was, to be bent. */
    lycoris.newCurve = (value) => `${rounded(value)}@0%,${rounded(value)}@100%`;

    /** Where a new point goes: the middle of the widest gap, on the line. */
    lycoris.gapOf = function (curve, last) {
        const ends = curve.unit === "sigma" ? [] : [{ position: curve.unit === "share" ? 1 : last }];
        const points = curve.unit === "sigma" ? curve.points : [{ position: 0 }, ...curve.points, ...ends];
        let widest = null;
        for (let at = 1; at < points.length; at += 1) {
            const [left, right] = [points[at - 1], points[at]];
            const wide = Math.abs(right.position - left.position);
            if (!widest || wide > widest.wide) widest = { wide, left, right };
        }
        const { left, right } = widest || { left: curve.points[0], right: { position: 0 } };
        const usual = (one, other) => (one.value === undefined ? other.value : one.value);
        const middle = (left.position + right.position) / 2;
        const position = curve.unit === "step" ? Math.round(middle) : Math.round(middle * 1000) / 1000;
        return { position, value: (usual(left, right) + usual(right, left)) / 2 };
    };
})();
