/* The top of a card: its preview image or video, or a coloured placeholder. */
(() => {
    "use strict";
    const lycoris = (window.lycoris = window.lycoris || {});

    /** The same name has the same colour everywhere, and neighbours in the alphabet do not look alike. */
    lycoris.hue = function (text) {
        let hash = 2166136261;
        for (let at = 0; at < text.length; at += 1) hash = Math.imul(hash ^ text.charCodeAt(at), 16777619);
        return ((hash >>> 0) * 137.508) % 360;
    };

    lycoris.blank = function (card) {
        const node = lycoris.el("div.lycoris-blank", { "aria-hidden": "true" });
        node.style.setProperty("--lycoris-hue", lycoris.hue(card.name).toFixed(0));
        const kind = (card.algorithms || [])[0];
        if (card.error) node.append(lycoris.icon("warning"));
        else node.append(lycoris.el(`span${kind && kind.length > 8 ? ".lycoris-long" : ""}`, {}, kind || "?"));
        return node;
    };

    function image(card, store, failed) {
        const img = lycoris.el("img.lycoris-image", {
            alt: "",
            loading: "lazy",
            decoding: "async",
            draggable: "false",
            onerror: failed,
            onload: () => img.classList.add("lycoris-there"),
        });
        img.src = store.url(card, "thumb", card.preview.v);
        return img;
    }

    function video(card, store, failed) {
        return lycoris.el("video.lycoris-image.lycoris-there", {
            muted: true,
            loop: true,
            playsinline: true,
            preload: "metadata",
            disablepictureinpicture: true,
            onerror: failed,
            src: store.url(card, "preview", card.preview.v),
            tabindex: "-1",
        });
    }

    /** The node for a card's preview; one that cannot be shown gives way to the coloured field. */
    lycoris.media = function (card, store) {
        if (!card.preview) return lycoris.blank(card);
        const box = lycoris.el("div.lycoris-media");
        const failed = () => box.replaceChildren(lycoris.blank(card));
        box.append((card.preview.kind === "video" ? video : image)(card, store, failed));
        return box;
    };

    /** Videos run only while they are looked at, and not for people who asked for less motion. */
    lycoris.play = function (cell, on) {
        const clip = cell && cell.querySelector("video");
        if (!clip) return;
        if (on && !matchMedia("(prefers-reduced-motion: reduce)").matches) clip.play().catch(() => undefined);
        else clip.pause();
    };
})();
