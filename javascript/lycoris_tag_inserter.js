/* Inserts a card's text into the prompt, and stores it so that a second click removes exactly that text. */
(() => {
    "use strict";
    const lycoris = (window.lycoris = window.lycoris || {});

    class Inserter {
        /** `state.inserted` outlives a reload: {card key: {words, negative}}. */
        constructor(boxes, state, choices) {
            this.boxes = boxes;
            this.state = state;
            this.choices = choices;
            this.undo = new Map(); // card key -> {box, before, after}
        }

        tagsOf(card) {
            const box = this.boxes.box();
            return box ? lycoris.tags(box.value).filter((tag) => lycoris.means(tag, card)) : [];
        }

        /** Returns what happened in words, for the live region. */
        toggle(card) {
            if (!this.boxes.box()) return "This page has no prompt box.";
            return this.tagsOf(card).length ? this.takeOut(card) : this.putIn(card);
        }

        putIn(card) {
            const box = this.boxes.box();
            const before = box.value;
            const words = this.choices.words(card);
            const tag = lycoris.tag(card.tag, this.choices.weight(card), card.kind);
            lycoris.edit(box, lycoris.insertion(before, this.boxes.caret(box), tag, words));
            this.boxes.carets.set(box, box.selectionStart);
            this.undo.set(card.key, { box, before, after: box.value });
            this.remember(card, words, this.putNegative(card));
            this.boxes.look();
            return `${card.name} was added to the ${this.boxes.label()}.`;
        }

        takeOut(card) {
            const box = this.boxes.box();
            const known = this.state.inserted[card.key] || {};
            const undo = this.undo.get(card.key);
            if (undo && undo.box === box && undo.after === box.value) this.restore(box, undo.before);
            else for (const tag of this.tagsOf(card).reverse()) this.cut(box, tag, known.words);
            this.takeNegative(known.negative);
            this.forget(card);
            this.boxes.look();
            return `${card.name} was removed from the ${this.boxes.label()}.`;
        }

        cut(box, tag, words) {
            const end = lycoris.wordsAfter(box.value, tag.end, words);
            lycoris.edit(box, lycoris.removal(box.value, tag.start, end < 0 ? tag.end : end));
        }

        /** The old text comes back as one small edit, so that the caret stays near and Ctrl+Z works. */
        restore(box, before) {
            lycoris.edit(box, lycoris.difference(box.value, before, 0));
        }

        putNegative(card) {
            const box = card.negative && this.boxes.negative();
            if (!box || lycoris.piece(box.value, card.negative)) return "";
            const left = box.value.trimEnd();
            const gap = !left ? "" : left.endsWith(",") ? " " : ", ";
            lycoris.edit(box, { start: left.length, end: box.value.length, insert: gap + card.negative });
            return card.negative;
        }

        takeNegative(words) {
            const box = words && this.boxes.negative();
            const piece = box && lycoris.piece(box.value, words);
            if (piece) lycoris.edit(box, lycoris.removal(box.value, piece[0], piece[1]));
        }

        remember(card, words, negative) {
            this.state.inserted = { ...this.state.inserted, [card.key]: { words, negative } };
            this.state.save();
        }

        forget(card) {
            const { [card.key]: _, ...rest } = this.state.inserted;
            this.state.inserted = rest;
            this.undo.delete(card.key);
            this.state.save();
        }
    }

    /** Does this tag mean this card? By the card's own name, or any path that ends in the card's path. */
    lycoris.means = function (tag, card) {
        const of = (kind) => (["hypernet", "aesthetic"].includes(kind) ? kind : "lyco");
        if (of(tag.kind) !== of(card.kind)) return false;
        const asked = tag.name.normalize("NFC").toLowerCase();
        return asked === card.lower || (asked.includes("/") && `/${card.stem}`.endsWith(`/${asked}`));
    };

    lycoris.Inserter = Inserter;
})();
