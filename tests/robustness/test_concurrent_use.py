"""Pictures are made while ten thousand files are indexed, edited, moved and looked at by eight clients."""

from __future__ import annotations

import itertools
import json
import os
import random
import sqlite3

import pytest
import torch

from tests.fake_webui.sample_files import put, put_text
from tests.support.concurrent_clients import Client, all_writes, at_once, is_whole, lost, number_of, quoted, served

pytest.importorskip("fastapi")
pytest.importorskip("uvicorn")

from benchmarks.synthetic_library import fill
from lib_adapters.library.open_database import DATABASE_NAME

FILES = 10_000
ROUNDS = 18  # of each client
MOVED = set(range(0, 600, 12))  # in "style/": these change their names
AWAY = " moved"
EDITED = 16  # cards that everybody edits
SIZES = [(40, 20), (20, 40), (33, 33)]
PROMPTS = ["3", "3 <lyco:ink:0.7>", "3 <lora:blur:0.5><lyco:ink>", "3 <lyco:words:0.8>", "3 <lyco:ink:0.5:1@0,0@1>"]


class Mover:
    """Somebody with a file manager: names change and come back, copies appear, times change."""

    def __init__(self, root):
        self.root, self.moves = root, 0

    def __call__(self):
        for turn in range(ROUNDS):
            movable = sorted(
                path for path in self.root.glob("style/*.safetensors") if int(number_of(path.name)) in MOVED
            )
            for path in movable[turn % 5 :: 5]:
                self.move(path, path.stem.removesuffix(AWAY) if path.stem.endswith(AWAY) else path.stem + AWAY)
            for path in itertools.islice(self.root.glob("tools/*.safetensors"), turn * 40, turn * 40 + 400):
                os.utime(path)
            extra = self.root / "new" / f"copy {turn}.safetensors"
            extra.parent.mkdir(exist_ok=True)
            extra.write_bytes(next(self.root.glob("tools/*.safetensors")).read_bytes())
            if turn > 3:
                (self.root / "new" / f"copy {turn - 3}.safetensors").unlink()

    def move(self, path, stem):
        """The adapter first: who edits it under its old name from then on is told."""
        for old in [path, *(path.with_suffix(end) for end in (".json", ".png"))]:
            if old.exists():
                old.rename(old.with_name(stem + old.suffix))
        self.moves += 1


@pytest.fixture
def busy(webui):
    """The web UI with many files and a few that fit its model."""
    fill(webui.folder / "LyCORIS", FILES, modules=2)
    put(webui), put(webui, "blur", "Lora", seed=8), put_text(webui)
    return webui


def page_of(webui):
    return next(page for page in webui.pages.extra_pages if page.title == "LyCORIS")


def make_pictures(webui, expected, count, wrong):
    """As the host does: one job after the other, each with the queue's lock."""
    for number in range(count):
        prompt = PROMPTS[number % len(PROMPTS)]
        with webui.call_queue.queue_lock:
            job = webui.draw(prompt)
        if not torch.equal(job.image, expected[prompt]):
            wrong.append(f"picture {number} ({prompt}) is another one: {list(job.comments)}")


def roles(clients, cards, webui):
    """What each of the eight does, again and again."""
    follower, all_of_them, one, two, looker, painter, reader, keeper = clients
    shared = cards[:EDITED]
    chance = [random.Random(seed) for seed in range(8)]

    def repeat(action, times=ROUNDS):
        return lambda: [action(turn) for turn in range(times)] and None

    def refresh(turn):
        keeper.told("/refresh", {})
        keeper.told("/cancel", {}) if turn % 7 == 3 else keeper.told("/report", prefix="/lycoris")
        keeper.told("/presets", {"presets": [{"name": f"mine {turn}", "text": "IN05"}], "elements": []})
        keeper.ask(f"/lycos?metadata={quoted('false')}", prefix="/sdapi/v1") if turn % 5 == 0 else None

    def edit(client, key, turn):
        for card in chance[turn % 8].sample(shared, 4) + chance[turn % 8].sample(cards[EDITED:], 4):
            client.edit(card, "notes", f"{key} {turn}")
            client.edit(card, key, f"{key} {turn}")

    def look(turn):
        for card in shared:
            looker.look_at_picture(card, "thumb" if turn % 2 else "preview")

    return [
        repeat(lambda turn: follower.follow(), ROUNDS * 4),
        repeat(lambda turn: all_of_them.look_at_all()),
        repeat(lambda turn: edit(one, "description", turn)),
        repeat(lambda turn: edit(two, "activation text", turn)),
        repeat(look),
        repeat(lambda turn: [painter.put_picture(card, SIZES[turn % 3]) for card in shared[:6]]),
        repeat(lambda turn: reader.read(cards[(turn * 7) % len(cards)])),
        repeat(refresh),
    ]


def cards_to_edit(webui, client):
    """The first stay where they are, the others are moved about."""
    cards = client.look_at_all()
    staying = [card for card in cards if card.get("dir") == "character"][:EDITED]
    moving = [card for card in cards if card.get("dir") == "style" and int(number_of(card["file"])) in MOVED]
    return staying + moving


@pytest.mark.slow
def test_everything_at_once(busy, tried, caplog):
    before = {name: tensor.clone() for name, tensor in busy.model.state_dict().items()}
    expected = {prompt: busy.draw(prompt).image for prompt in PROMPTS}
    assert len({image.sum().item() for image in expected.values()}) == len(PROMPTS)
    root, tab = busy.folder / "LyCORIS", page_of(busy).tab
    tab.library.start()
    assert tab.library.wait(120)
    with served(busy.app.real()) as address:
        clients = [Client(address) for _ in range(8)]
        wrong: list[str] = []
        mover = Mover(root)
        tasks = roles(clients, cards_to_edit(busy, clients[0]), busy)
        jobs = lambda: make_pictures(busy, expected, 5 * len(PROMPTS), wrong)  # noqa: E731
        wrong += at_once(jobs, mover, *tasks)
        tab.library.start()
        assert tab.library.wait(120)
        clients[0].follow()
    requests = sum(sum(client.statuses.values()) for client in clients)
    tried("concurrency", "requests of 8 clients").add(requests)
    tried("concurrency", "pictures made meanwhile").add(5 * len(PROMPTS))
    tried("concurrency", "files moved meanwhile").add(mover.moves)
    assert wrong + [text for client in clients for text in client.wrong] == []
    busy.draw("3")
    assert all(torch.equal(tensor, before[name]) for name, tensor in busy.model.state_dict().items())
    check_cards(busy, clients[0])
    check_edits(root, clients, tried)
    assert [record for record in caplog.records if record.levelname == "ERROR"] == []


def check_cards(webui, follower):
    """What a page saw bit by bit is what is there."""
    folders = [webui.folder / name for name in ("LyCORIS", "Lora", "hypernetworks")]
    there = [str(path.relative_to(folder)) for folder in folders for path in folder.rglob("*.safetensors")]
    assert sorted(card["file"] for card in follower.seen.values()) == sorted(there)
    connection = sqlite3.connect(webui.folder / "data/cache/lycoris-bundle" / DATABASE_NAME)
    assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    connection.close()


def check_edits(root, clients, tried):
    """Every acknowledged edit is in the file, or one that came after it is."""
    writes = all_writes(clients)
    edits = tried("concurrency", "acknowledged edits")
    files = {number_of(path.name): path for path in root.rglob("*.safetensors")}
    cards = {number_of(card["file"]): card for card in clients[0].seen.values()}
    found = []
    for (number, key), done in writes.items():
        edits.add(len(done))
        path = files[number]
        if key == "picture":
            content = path.with_suffix(".png").read_bytes()
            assert is_whole(content)
            continue
        stored = json.loads(path.with_suffix(".json").read_text("utf-8"))
        if why := lost(done, stored.get(key)):
            found.append(f"{path.name}, {key}: {why}")
        if key == "activation text" and cards[number]["words"] != [stored[key]]:
            found.append(f"{path.name}: its card says {cards[number]['words']}")
    assert len(writes) > 3 * EDITED
    assert found == []
