/* Per-card insert preferences (trigger words and weight), stored in this browser. */
(() => {
    "use strict";
    const lycoris = (window.lycoris = window.lycoris || {});
    const KEY = "lycoris:choices";

    /** "a, (b, c:1.2), d" -> three pieces: commas in brackets part nothing. */
    lycoris.pieces = function (text) {
        const found = [""];
        let depth = 0;
        for (const sign of text) {
            if ("([{<".includes(sign)) depth += 1;
            if (")]}>".includes(sign)) depth = Math.max(0, depth - 1);
            if (sign === "," && !depth) found.push("");
            else found[found.length - 1] += sign;
        }
        return found.map((piece) => piece.trim()).filter(Boolean);
    };

    class Choices {
        constructor() {
            this.all = lycoris.read(KEY, {});
        }

        of(card) {
            return this.all[card.key] || {};
        }

        set(card, change) {
            this.all = { ...lycoris.read(KEY, {}), [card.key]: { ...this.of(card), ...change } };
            lycoris.write(KEY, this.all);
        }

        /** The chips of a card: the pieces of one activation text, or several sets as they are. */
        offered(card) {
            const words = card.words || [];
            return words.length === 1 ? lycoris.pieces(words[0]) : words;
        }

        /** The chips that are on: all pieces of one text, the first of several sets, until the user chose. */
        chosen(card) {
            const offered = this.offered(card);
            return this.of(card).words || ((card.words || []).length > 1 ? offered.slice(0, 1) : offered);
        }

        words(card) {
            const untouched = !this.of(card).words && (card.words || []).length === 1;
            const text = untouched ? card.words[0].trim().replace(/\s*,$/, "") : this.chosen(card).join(", ");
            return text.replace(/\s*[\r\n]+\s*/g, " ");
        }

        weight(card) {
            const chosen = this.of(card).weight;
            const usual = card.kind === "aesthetic" ? 0.9 : 1;
            return Number.isFinite(chosen) ? chosen : Number.isFinite(card.weight) ? card.weight : usual;
        }
    }

    lycoris.Choices = Choices;
})();
