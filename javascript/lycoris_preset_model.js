/* The presets while they are edited: a copy of the server's presets, and the user presets as one text. */
(() => {
    "use strict";
    const lycoris = (window.lycoris = window.lycoris || {});
    const KINDS = ["presets", "elements"];
    const SECTION = "[lbwe]";
    const FRESH = { presets: "1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1", elements: "IN05-OUT05:attn:0.5" };

    const own = (rows) => rows.filter((one) => one.own);

    /** What lora-block-weight's two files say, too: three parts in a rule make it one for kinds of layers. */
    function parsed(text) {
        const found = { presets: new Map(), elements: new Map(), strange: [] };
        let section = false;
        for (const line of text.split(/\r?\n/).map(lycoris.strip)) {
            const at = line.indexOf(":");
            const head = line.toLowerCase() === SECTION;
            section = section || head;
            if (!line || line.startsWith("#") || head) continue;
            const [name, value] = [lycoris.strip(line.slice(0, at)), lycoris.strip(line.slice(at + 1))];
            const rule = section || value.split(/[,;]/)[0].split(":").length === 3;
            if (at > 0) found[rule ? "elements" : "presets"].set(name, value);
            else found.strange.push(line);
        }
        return found;
    }

    class PresetBook {
        constructor(data) {
            this.data = data;
            this.rows = Object.fromEntries(KINDS.map((kind) => [kind, data[kind].map((one) => ({ ...one }))]));
            this.first = this.stamp();
        }

        stamp() {
            return JSON.stringify(KINDS.map((kind) => own(this.rows[kind])));
        }

        changed() {
            return this.stamp() !== this.first;
        }

        /** `base`, with a number behind it where that name is taken by one of the user's own. */
        free(kind, base) {
            const names = new Set(this.rows[kind].map((one) => one.name));
            let name = base;
            for (let number = 2; names.has(name); number += 1) name = `${base} ${number}`;
            return name;
        }

        /** Both give the place of the new one. */
        copy(kind, row, name) {
            return this.rows[kind].push({ ...row, name: this.free(kind, name), own: true }) - 1;
        }

        add(kind) {
            return this.copy(kind, { text: FRESH[kind] }, "new preset");
        }

        /** The user's own, as the file has them. */
        text() {
            const lines = (kind) => own(this.rows[kind]).map((one) => `${one.name}:${one.text}`);
            const rules = lines("elements");
            return [...lines("presets"), ...(rules.length ? [SECTION, ...rules] : [])].join("\n");
        }

        /** The reverse: these are the user's own now. Gives the lines that are no preset. */
        read(text) {
            const found = parsed(text);
            for (const kind of KINDS) {
                const others = this.data[kind].filter((one) => !one.own && !found[kind].has(one.name));
                const rows = [...found[kind]].map(([name, value]) => ({ name, text: value, own: true }));
                this.rows[kind] = [...others.map((one) => ({ ...one })), ...rows];
            }
            return found.strange;
        }
    }

    lycoris.PresetBook = PresetBook;
})();
