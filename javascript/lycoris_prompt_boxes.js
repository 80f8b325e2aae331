/* The prompt boxes of one page: tracks the last used box and its text, and makes edits that the web UI notices. */
(() => {
    "use strict";
    const lycoris = (window.lycoris = window.lycoris || {});
    const LOOK_MS = 400;

    const visible = (node) => node.isConnected && node.getClientRects().length > 0;

    /** Typed rather than assigned where that does no harm, so that Ctrl+Z in the box takes it back. */
    function typed(box, edit) {
        if (!visible(box) || !matchMedia("(hover: hover)").matches) return false;
        const held = document.activeElement;
        box.focus({ preventScroll: true });
        box.setSelectionRange(edit.start, edit.end);
        const done = document.execCommand(edit.insert ? "insertText" : "delete", false, edit.insert);
        if (held && held !== box) held.focus({ preventScroll: true });
        return done;
    }

    /** Applies an edit and tells the host, which listens for `input` and would send its old text otherwise. */
    lycoris.edit = function (box, edit) {
        if (edit.start === edit.end && !edit.insert) return;
        const wanted = lycoris.applied(box.value, edit);
        const top = box.scrollTop;
        if (!typed(box, edit) || box.value !== wanted) {
            box.value = wanted;
            box.dispatchEvent(new Event("input", { bubbles: true }));
        }
        const caret = edit.start + edit.insert.length;
        box.setSelectionRange(caret, caret);
        box.scrollTop = top;
    };

    class Boxes {
        /** `changed` is called when the text or the box that counts has changed, however that happened. */
        constructor(prompts, negatives, changed) {
            this.prompts = prompts;
            this.negatives = negatives;
            this.changed = changed;
            this.last = null;
            this.carets = new WeakMap();
            this.seen = null;
            this.over = new AbortController();
            const on = (name, work) => document.addEventListener(name, work, { signal: this.over.signal });
            on("focusin", (event) => this.focused(event.target));
            on("selectionchange", () => this.moved());
            on("input", (event) => this.owns(event.target) && this.look());
            this.timer = setInterval(() => this.look(), LOOK_MS); // the host sets values without any event
        }

        close() {
            this.over.abort();
            clearInterval(this.timer);
        }

        find(selectors) {
            return selectors.map((selector) => document.querySelector(selector)).filter(Boolean);
        }

        owns(node) {
            return node instanceof HTMLTextAreaElement && this.find(this.prompts).includes(node);
        }

        focused(node) {
            if (!this.owns(node)) return;
            this.last = node;
            this.look();
        }

        moved() {
            const node = document.activeElement;
            if (this.owns(node)) this.carets.set(node, node.selectionStart);
        }

        /** The box a click writes into: the one used last while it can be seen, else the first. */
        box() {
            if (this.last && visible(this.last)) return this.last;
            return this.find(this.prompts)[0] || null;
        }

        negative() {
            const boxes = this.find(this.negatives);
            return boxes[this.find(this.prompts).indexOf(this.box())] || boxes[0] || null;
        }

        /** Where a click writes: the caret if the box was ever used, else the end. */
        caret(box) {
            return this.carets.has(box) ? this.carets.get(box) : box.value.length;
        }

        label() {
            const box = this.box();
            return box && box !== this.find(this.prompts)[0] ? "hires prompt" : "prompt";
        }

        look() {
            const box = this.box();
            const now = box ? box.value : "";
            if (this.seen && this.seen[0] === box && this.seen[1] === now) return;
            this.seen = [box, now];
            this.changed();
        }
    }

    lycoris.Boxes = Boxes;
})();
