/* Parses one `<lyco:...>` or `<lora:...>` tag and the positions of its values, like lib_adapters/prompt/tags.py. */
(() => {
    "use strict";
    const lycoris = (window.lycoris = window.lycoris || {});
    const PASS = ["te", "unet", "dyn", "lbw", "lbwe", "x", "start", "stop", "step"];
    const KEYS = new Set([...PASS, "w", "mode", "hr", ...PASS.map((key) => `hr${key}`)]);
    const FIELDS = { __proto__: null, lbw: 2, w: 2, lbwe: 3, hrlbw: 2, hrlbwe: 3 }; // parts of one rule
    const POSITIONAL = ["te", "unet", "dyn"];
    const MODES = ["auto", "merged", "live"];
    const UNREADABLE = { te: NaN, unet: NaN, dyn: null, x: 1, window: null, second: null, mode: "auto" };
    const ALIASES = { __proto__: null, MID: "M00", MIDDLE: "M00", TE: "BASE" };
    const COUNTS = { IN: 12, OUT: 12, J: 24, D: 19, S: 38 };
    const BLOCKS = new Set(["BASE", "M00", "CLIP", "T5", "IN", "OUT", "TIME", "LAST"]);
    for (const [letter, count] of Object.entries(COUNTS))
        for (let at = 0; at < count; at += 1) BLOCKS.add(letter + String(at).padStart(2, "0"));

    function isBlock(word) {
        const upper = lycoris.strip(word).toUpperCase();
        const name = ALIASES[upper] || upper;
        const short = /^(IN|OUT|J|D|S)([0-9])$/.exec(name);
        return BLOCKS.has(short ? `${short[1]}0${short[2]}` : name);
    }

    /** Does the last rule of this value still want something behind a colon? */
    function isOpen(value, fields) {
        const parts = value
            .split(/[,;]/)
            .pop()
            .replace(/\*/g, ":")
            .split(":");
        if (parts.length > 1) return parts.length < fields;
        const word = lycoris.strip(lycoris.strip(parts[0]).replace(/^NOT /, "")).split(/\s/)[0];
        return word ? isBlock(word.split("-")[0]) : fields === 3;
    }

    const split = (text) => {
        const at = text.indexOf("=");
        return at < 0 ? [text, "", false] : [text.slice(0, at), text.slice(at + 1), true];
    };

    const wantsMore = (text) => {
        const [key, value] = split(text);
        const fields = FIELDS[lycoris.strip(key)];
        return fields !== undefined && isOpen(value, fields);
    };

    /** [start, end] of each item; rules have colons of their own and are one item again. */
    function spans(text, from) {
        const found = [];
        let start = from;
        while (start < text.length) {
            const colon = text.indexOf(":", start + 1);
            const end = colon < 0 ? text.length - 1 : colon; // the last sign is ">"
            const last = found[found.length - 1];
            if (end < start + 1) break;
            const next = text.slice(start + 1, end);
            const bare = !next.includes("=") && lycoris.strip(next) !== "off";
            if (last && bare && wantsMore(text.slice(...last))) last[1] = end;
            else found.push([start + 1, end]);
            start = end === text.length - 1 ? text.length : end;
        }
        return found;
    }

    const isPreset = (token) =>
        token && token !== "timestep" && !lycoris.isCurve(token) && (/^\p{L}/u.test(token) || token.includes(","));

    /** What a value without a key is: numbers in their order, then a block preset, then its x; null: too many. */
    function place(taken, token) {
        if (taken.has("lbw") && !taken.has("x") && lycoris.isNumber(token)) return "x";
        if (taken.size && !taken.has("lbw") && isPreset(token)) return "lbw";
        const free = POSITIONAL.find((key) => !taken.has(key));
        return free === undefined || taken.has("lbw") ? null : free;
    }

    /** {start, end, key, named, value, at, to}: text[at:to] is the value; key null where the item is ignored. */
    function item(text, [start, end], taken) {
        const [left, right, named] = split(text.slice(start, end));
        const raw = named ? right : left;
        const value = lycoris.strip(raw);
        const at = end - raw.length + (value ? raw.indexOf(value) : 0);
        const one = { start, end, named, value, at, to: at + value.length };
        const key = lycoris.strip(left);
        if (named) return { ...one, key: KEYS.has(key) ? (key === "w" ? "lbw" : key) : null };
        if (value === "off") return { ...one, key: "off" };
        const role = place(taken, value);
        if (role) taken.add(role);
        return { ...one, key: role };
    }

    function readRanks(token) {
        if (token === "timestep") return token;
        if (lycoris.isCurve(token)) return lycoris.readCurve(token);
        if (/^\+?[0-9]{1,9}$/.test(token) && Number(token) > 0) return Number(token);
        throw new lycoris.BadTag(`“${token}” is not a whole number above 0`);
    }

    /** An end that is not named is as in the pass before, unless `step=` names both. */
    function readEnds(values, usual) {
        if (!["start", "stop", "step"].some((key) => key in values)) return usual;
        const own = lycoris.readWindow(values);
        if (!own || !usual || values.step !== undefined) return own;
        return { start: own.start || usual.start, stop: own.stop || usual.stop };
    }

    /** The keys of one pass; what is missing is as in the pass before, and the U-Net without one is as te. */
    function readPass(values, before) {
        const given = (key, read, usual) => (values[key] === undefined ? usual : read(values[key]));
        const usual = before || { te: 1, dyn: null, x: 1, window: null };
        const te = given("te", lycoris.readStrength, usual.te);
        return {
            te: lycoris.firstOf(te),
            unet: given("unet", lycoris.readStrength, before ? before.unet : te),
            dyn: given("dyn", readRanks, usual.dyn),
            x: given("x", lycoris.readNumber, usual.x),
            window: readEnds(values, usual.window),
        };
    }

    function readSecond(values, first) {
        const own = values.hr === undefined ? {} : { te: values.hr, unet: values.hr };
        for (const key of PASS) if (values[`hr${key}`] !== undefined) own[key] = values[`hr${key}`];
        return Object.keys(own).length ? readPass(own, first) : null;
    }

    function readMode(token) {
        if (MODES.includes(token.toLowerCase())) return token.toLowerCase();
        throw new lycoris.BadTag(`“${token}” is no mode: it is auto, merged or live`);
    }

    function readControl(name, values) {
        if (!lycoris.strip(name)) throw new lycoris.BadTag("it names no adapter");
        const first = readPass(values, null);
        const second = readSecond(values, first);
        return { ...first, second, mode: readMode(values.mode === undefined ? "auto" : values.mode) };
    }

    /** {name, nameEnd, items, values, off, problem} and what the values mean; positions count from the tag's "<". */
    lycoris.readTag = function (kind, inside) {
        const text = `<${kind}:${inside}>`;
        const { name, length } = lycoris.nameIn(inside);
        const nameEnd = kind.length + 2 + length;
        const taken = new Set();
        const items = spans(text, nameEnd).map((span) => item(text, span, taken));
        const values = { __proto__: null };
        const ordered = [...items.filter((one) => !one.named), ...items.filter((one) => one.named)]; // these win
        for (const one of ordered) if (one.key) values[one.key] = one.value;
        const plain = items.length <= 1 && !items.some((one) => one.named);
        const read = { name, nameEnd, items, values, plain, off: values.off !== undefined, problem: "" };
        try {
            return { ...read, ...readControl(name, values) };
        } catch (error) {
            if (!(error instanceof lycoris.BadTag)) throw error;
            return { ...read, ...UNREADABLE, problem: error.message };
        }
    };
})();
