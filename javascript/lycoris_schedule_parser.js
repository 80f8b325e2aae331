/* Scheduled strengths: parses curves and windows like lib_adapters/prompt/schedule.py. */
(() => {
    "use strict";
    const lycoris = (window.lycoris = window.lycoris || {});
    const NUMBER = /^[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?$/;
    const POSITION = /^([0-9]+\.?[0-9]*|\.[0-9]+)(%|sigma|σ)?$/;
    const MOST_POINTS = 64;

    /** Why a tag cannot be read, in one sentence. */
    lycoris.BadTag = class extends Error {};

    const bad = (text) => {
        throw new lycoris.BadTag(text);
    };

    lycoris.isNumber = (token) => NUMBER.test(token);

    /** NaN where it is none. */
    lycoris.numberIn = (token) => (NUMBER.test(lycoris.strip(token)) ? Number(lycoris.strip(token)) : NaN);

    lycoris.readNumber = function (token) {
        const value = NUMBER.test(token) ? Number(token) : NaN;
        return Number.isFinite(value) ? value : bad(`“${token}” is not a finite number`);
    };

    lycoris.isCurve = (token) => /[@~]/.test(token);

    function measured(match) {
        const number = Number(match[1]);
        if (!Number.isFinite(number)) bad(`“${match[0]}” is not a finite position`);
        if (match[2] === "%") return [number / 100, "share"];
        return [number, match[2] ? "sigma" : ""];
    }

    function point(piece, index) {
        const at = piece.search(/[@~]/);
        const place = lycoris.strip(piece.slice(at + 1).replace(/~/g, "@"));
        const match = at < 0 ? null : POSITION.exec(place);
        if (!match) bad(`“${piece}” is not value@position`);
        const [position, unit] = measured(match);
        return { position, unit, value: lycoris.readNumber(lycoris.strip(piece.slice(0, at))), piece: index };
    }

    function unitOf(points) {
        const bare = points.filter((one) => !one.unit).map((one) => one.position);
        const units = new Set(points.map((one) => one.unit).filter(Boolean));
        if (!units.size) units.add(Math.max(...bare) <= 1 ? "share" : "step");
        const [unit] = units;
        const mixed = units.size > 1 || (unit === "share" && Math.max(0, ...bare) > 1);
        return mixed ? bad("a curve counts its points in different units") : unit;
    }

    /** {unit, points: [{position, value, piece}] in the order in which they are passed}; noise falls. */
    lycoris.readCurve = function (token) {
        const pieces = token.split(/[,;]/).map(lycoris.strip);
        if (pieces.length > MOST_POINTS) bad(`a curve has more than ${MOST_POINTS} points`);
        const points = pieces.map(point);
        const unit = unitOf(points);
        const way = unit === "sigma" ? -1 : 1;
        points.sort((one, other) => way * (one.position - other.position));
        return { unit, points };
    };

    lycoris.readStrength = (token) => (lycoris.isCurve(token) ? lycoris.readCurve(token) : lycoris.readNumber(token));

    lycoris.firstOf = (strength) => (typeof strength === "number" ? strength : strength.points[0].value);

    /** For windows: a whole number is a step, one with a decimal point up to 1 a share. */
    lycoris.readPosition = function (token) {
        const match = POSITION.exec(token);
        if (!match) bad(`“${token}” is no position: a step (5), a share (0.5, 50%) or noise (4.2sigma)`);
        const [value, unit] = measured(match);
        return { value, unit: unit || (token.includes(".") && value <= 1 ? "share" : "step") };
    };

    /** The texts of both ends; `step=a-b` wins over the others. */
    lycoris.ends = function (values) {
        if (values.step === undefined) return [values.start, values.stop];
        const ends = values.step.split("-").map(lycoris.strip);
        if (ends.length !== 2 || !ends.some(Boolean)) bad(`“${values.step}” is no range of steps such as 5-10`);
        return ends.map((end) => end || undefined);
    };

    /** {start, stop}, null where there is no such end; null where there is no window. */
    lycoris.readWindow = function (values) {
        const ends = lycoris.ends(values).map((end) => (end === undefined ? null : lycoris.readPosition(end)));
        return ends[0] || ends[1] ? { start: ends[0], stop: ends[1] } : null;
    };

    function curveAt(curve, here) {
        const { points } = curve;
        let last = -1;
        points.forEach((one, at) => (last = one.position <= here ? at : last));
        if (last < 0) return points[0].value;
        const [left, right] = [points[last], points[Math.min(last + 1, points.length - 1)]];
        if (right.position === left.position) return right.value;
        return left.value + ((right.value - left.value) * (here - left.position)) / (right.position - left.position);
    }

    function passed(end, step, steps) {
        if (end.unit === "sigma") return false; // the page does not know the noise
        return (end.unit === "share" ? step / steps : step) >= end.value;
    }

    lycoris.holds = (window, step, steps) =>
        !window ||
        ((!window.start || passed(window.start, step, steps)) && !(window.stop && passed(window.stop, step, steps)));

    /** What a strength is in one step, the window aside. A curve over noise is not known here: its first value. */
    lycoris.valueAt = function (strength, step, steps) {
        if (typeof strength === "number") return strength;
        if (strength.unit === "sigma") return strength.points[0].value;
        const share = steps > 1 ? Math.min(1, step / (steps - 1)) : 0;
        return curveAt(strength, strength.unit === "share" ? share : step);
    };
})();
