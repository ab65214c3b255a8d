"""Texts for the tests of this folder, and the shapes of its fixtures."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from llm_twin.corpus import Document, chunk
from llm_twin.corpus.document import Chunk
from llm_twin.retrieval.ports import Embedder, Index
from llm_twin.serving.twin import Twin
from llm_twin.settings import Settings

MakeIndex = Callable[[list[Chunk], Embedder | None], Index]
MakeTwin = Callable[[list[Chunk], Embedder | None], Twin]

BAKER = {
    "A loaf without yeast": """
I keep one jar on the shelf and it raises every loaf I eat. This is how I treat it.

## Feeding the sourdough starter

Every evening I throw away all but a spoonful of the starter. I stir in fifty grams of rye flour
and fifty grams of lukewarm water. By morning it has doubled and smells of apples.

## Mixing the dough

Weigh everything before you begin:

- 500 g strong wheat flour
- 350 g water
- 100 g ripe starter
- 10 g salt

Stir until no dry flour is left, then leave the bowl alone for half an hour. Salt goes in last,
because it slows the starter down.

## Baking in a cast-iron pot

Heat the oven and the empty pot to 250 degrees for forty minutes. Drop the dough into the hot pot,
score it with a razor blade and close the lid. After twenty minutes I take the lid off, so that the
crust can turn brown. The loaf is done when it sounds hollow.
""",
    "Rye and patience": """
Rye flour holds no gluten worth the name, so kneading does nothing for it. I stir it with a spoon,
pour it into a tin and go for a walk instead.

## Why rye loaves are sticky

Rye is rich in pentosans, which bind many times their weight in water. They make the dough feel like
wet clay even when it is ready. Wet your hands and a scraper instead of adding flour.

## Keeping a loaf fresh

Rye bread keeps for a week in a linen bag. It even tastes better on the second day. Never put it in
the fridge, because starch turns stale fastest just above freezing.

## The timer I wrote

A small script reminds me of the folds:

```python
import time

for fold in range(4):
    time.sleep(30 * 60)
    print("fold", fold + 1)
```

It beeps four times and then I can go to bed.
""",
}

NOTES = [
    ("Ridge walk", "We left the hut at six and reached the ridge before the clouds came in."),
    ("Boots", "The new boots rub at the heel. Two pairs of thin socks help more than one thick."),
    ("Map", "Paper maps never run out of battery. I fold mine so that today's valley is on top."),
    ("Stove", "The gas stove sulks below freezing. I keep the cartridge in my sleeping bag."),
    ("Marmots", "Marmots whistle once for an eagle and several times for a fox."),
    ("Rope", "A wet rope is heavier and weaker. I dry it in the shade, never in the sun."),
    ("Weather", "When swallows fly low and the ridge looks close, it rains by evening."),
    (
        "Tent",
        "Pitch the tent with its narrow end to the wind. Then the poles do not sing all night.",
    ),
    ("Glacier", "We crossed the glacier roped up, ten metres apart. Snow bridges hold till noon."),
    ("Food", "Dried apricots, hard cheese and oat cakes: nothing that melts, nothing in glass."),
]


def settings_for(home: Path) -> Settings:
    return Settings(home=home, embedder="words", embedder_home=home / "embedder")


def chunks_of(texts: dict[str, str]) -> list[Chunk]:
    documents = [
        Document(uri=title, title=title, text=text, link=f"https://blog.example/{number}")
        for number, (title, text) in enumerate(texts.items())
    ]
    return [part for one in documents for part in chunk(one, lambda text: len(text.split()), 160)]
