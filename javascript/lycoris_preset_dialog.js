/* The block-weight preset editor: changing a built-in preset creates a user preset. */
(() => {
    "use strict";
    const lycoris = (window.lycoris = window.lycoris || {});

    class PresetDialog {
        constructor(page, opener) {
            Object.assign(this, {
                page,
                opener,
                presets: page.presets,
                view: "presets",
                at: { presets: 0, elements: 0 },
            });
            this.fields = {
                presets: new lycoris.presetFields.presets((text) => this.write(text)),
                elements: new lycoris.presetFields.elements((text) => this.write(text)),
            };
            Object.assign(this, lycoris.presetParts(this));
            this.reset();
        }

        async open() {
            document.body.append(this.node);
            this.node.showModal();
            this.say("Loading…");
            await lycoris.inertUntil(this.main, this.presets.load());
            this.say(this.presets.failure, !!this.presets.failure);
            this.reset();
        }

        closed() {
            this.node.remove();
            if (this.opener.isConnected) this.opener.focus();
        }

        /** What is unsaved is not thrown away by one press. */
        leave() {
            if (!this.book.changed() || this.warned) return this.node.close();
            this.warned = true;
            return this.say("There are changes that are not saved. Close again to throw them away.", true);
        }

        say(text, bad = false) {
            this.note.textContent = text;
            this.note.classList.toggle("lycoris-failure", bad);
        }

        /** Everything as the server has it. */
        reset() {
            const { path, problems } = this.presets.data;
            this.book = new lycoris.PresetBook(this.presets.data);
            this.warned = false;
            this.path.textContent = path;
            if (problems.length) this.say(problems.join(" "), true);
            this.show(this.view);
        }

        get mine() {
            return this.book.rows[this.view] || [];
        }

        get row() {
            return this.mine[this.at[this.view]] || null;
        }

        show(view) {
            this.view = view;
            const whole = view === "whole";
            for (const node of this.views) node.setAttribute("aria-pressed", String(node.dataset.view === view));
            this.side.hidden = this.form.hidden = whole;
            this.whole.hidden = !whole;
            if (whole) this.whole.value = this.book.text();
            else this.body.replaceChildren(this.fields[view].node);
            this.draw();
        }

        draw() {
            this.keep.disabled = !this.book.changed();
            if (this.view === "whole") return;
            lycoris.drawPresetList(this);
            const { row } = this;
            this.name.disabled = this.body.hidden = !row;
            this.buttons[1].disabled = !row;
            this.buttons[2].disabled = !row || !row.own;
            if (!row) return;
            if (this.name !== document.activeElement) this.name.value = row.name;
            this.state.textContent = row.own
                ? "Your own."
                : "Built in or from another extension: a change makes it your own.";
            const { lists, layouts } = this.presets.data;
            const blocks = layouts[this.page.store.model.family];
            const usual = Object.keys(lists).find((count) => blocks && lists[count].join() === blocks.join());
            this.fields[this.view].fill(row.text, lists, usual);
        }

        choose(at) {
            this.at[this.view] = Math.max(0, Math.min(at, this.mine.length - 1));
            this.draw();
        }

        write(text) {
            Object.assign(this.row, { text, own: true });
            this.edited();
        }

        /** A built-in one keeps its name: its copy gets the new one. */
        rename() {
            if (!this.row.own) this.at[this.view] = this.book.copy(this.view, this.row, this.row.name);
            this.row.name = this.name.value;
            this.edited();
        }

        edited() {
            this.warned = false;
            this.say(this.book.changed() ? "Not saved yet." : "");
            this.draw();
        }

        add() {
            this.at[this.view] = this.book.add(this.view);
            this.edited();
            this.name.focus();
            this.name.select();
        }

        copy() {
            this.at[this.view] = this.book.copy(this.view, this.row, `${this.row.name} copy`);
            this.edited();
        }

        remove() {
            this.mine.splice(this.at[this.view], 1);
            this.choose(this.at[this.view]);
            this.edited();
        }

        readWhole() {
            const strange = this.book.read(this.whole.value);
            this.edited();
            if (strange.length) this.say(`Not a preset, skipped: ${strange.slice(0, 3).join(" / ")}`, true);
        }

        async save() {
            const name = this.row && this.row.name.trim();
            try {
                this.say("Saving…");
                const { presets, elements } = this.book.rows;
                await lycoris.inertUntil(this.main, this.presets.save(presets, elements));
                this.say("Saved.");
                this.reset();
                const at = this.mine.findIndex((one) => one.name === name);
                if (at >= 0) this.choose(at);
            } catch (error) {
                this.say(error.message, true);
            }
        }
    }

    lycoris.editPresets = (page, opener) => new PresetDialog(page, opener).open();
})();
