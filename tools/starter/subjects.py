"""Which emoji the starter learns, which it never sees, and the words for them.

Names on the left are labels of `emojibase-data`; the right side is the word used in captions when the label is not
what a person would type. `HELD_OUT` is kept away from every training script: fine-tuning tests need unseen subjects.
"""

from __future__ import annotations

TRAINED: dict[str, str] = {
    "dog face": "", "dog": "", "fox": "", "cat face": "", "cat": "", "lion": "", "tiger face": "", "horse": "",
    "unicorn": "", "zebra": "", "cow": "", "pig face": "", "giraffe": "", "elephant": "", "mouse face": "",
    "rabbit face": "", "rabbit": "", "hedgehog": "", "bear": "", "koala": "", "panda": "", "monkey face": "",
    "baby chick": "", "penguin": "", "duck": "", "owl": "", "flamingo": "", "frog": "", "turtle": "",
    "dragon face": "", "T-Rex": "dinosaur", "spouting whale": "", "dolphin": "", "tropical fish": "", "shark": "",
    "octopus": "", "crab": "", "butterfly": "", "honeybee": "bee", "lady beetle": "ladybug", "rose": "",
    "sunflower": "", "tulip": "", "cactus": "", "mushroom": "", "evergreen tree": "", "grapes": "", "watermelon": "",
    "lemon": "", "banana": "", "pineapple": "", "red apple": "apple", "cherries": "", "strawberry": "", "tomato": "",
    "avocado": "", "carrot": "", "ear of corn": "corn", "hamburger": "", "french fries": "", "pizza": "",
    "soft ice cream": "ice cream", "doughnut": "donut", "birthday cake": "cake", "cupcake": "", "house": "",
    "castle": "", "bus": "", "taxi": "", "automobile": "car", "bicycle": "", "sailboat": "", "rocket": "", "star": "",
    "crescent moon": "moon", "sun with face": "sun", "rainbow": "", "fire": "", "snowman without snow": "snowman",
    "balloon": "", "wrapped gift": "gift", "trophy": "", "soccer ball": "", "teddy bear": "", "crown": "",
    "top hat": "", "guitar": "", "camera": "", "light bulb": "", "key": "", "locked": "lock",
    "umbrella with rain drops": "umbrella", "pink heart": "heart", "jack-o-lantern": "pumpkin", "robot": "",
    "ghost": "",
}

#: Known to the text encoder and the VAE, not yet to the UNet: for a longer training than two CPU cores allow.
RESERVE: dict[str, str] = {
    "wolf": "", "raccoon": "", "deer": "", "cow face": "", "pig": "", "llama": "", "rhinoceros": "", "hamster": "",
    "bat": "", "rooster": "", "swan": "", "parrot": "", "snail": "", "snake": "", "palm tree": "", "maple leaf": "",
    "four leaf clover": "", "tangerine": "orange fruit", "pear": "", "peach": "", "eggplant": "", "broccoli": "",
    "bread": "", "croissant": "", "pretzel": "", "cheese wedge": "cheese", "hot dog": "", "taco": "", "sushi": "",
    "cookie": "", "lollipop": "", "hot beverage": "cup of coffee", "teapot": "", "beer mug": "", "wine glass": "",
    "tent": "", "fire engine": "", "tractor": "", "helicopter": "", "flying saucer": "", "anchor": "",
    "alarm clock": "", "basketball": "", "trumpet": "", "drum": "", "television": "", "hammer": "", "backpack": "",
    "chair": "", "bucket": "", "glasses": "",
}

HELD_OUT: tuple[str, ...] = (
    "poodle", "cat with tears of joy", "leopard", "bison", "camel", "kangaroo", "otter", "sloth", "beaver", "skunk",
    "eagle", "peacock", "crocodile", "lizard", "sauropod", "blowfish", "lobster", "squid", "beetle", "hibiscus",
    "melon", "mango", "kiwi fruit", "bell pepper", "cucumber", "bagel", "waffle", "sandwich", "shortcake",
    "cocktail glass", "locomotive", "police car", "delivery truck", "speedboat", "parachute", "magnet", "saxophone",
    "violin", "telescope", "boxing glove",
)

#: Colours as RGB.
BACKGROUNDS: dict[str, tuple[int, int, int]] = {
    "white": (255, 255, 255), "black": (24, 24, 28), "gray": (138, 140, 146), "red": (214, 48, 49),
    "orange": (245, 140, 40), "yellow": (250, 215, 70), "green": (58, 165, 90), "blue": (52, 110, 220),
    "purple": (130, 75, 190), "pink": (246, 160, 196), "brown": (128, 84, 54), "turquoise": (60, 190, 190),
}

#: Target hue in degrees for colour words that shift a subject's hue.
HUES: dict[str, float] = {
    "red": 0.0, "orange": 28.0, "yellow": 52.0, "green": 125.0, "turquoise": 178.0, "blue": 218.0, "purple": 275.0,
    "pink": 325.0,
}

#: Layouts: edge of the picture's box and its left and top offset, in cells of one eighth of the canvas. Boxes lie on
#: the grid of the latents, so that a shifted subject is a shifted latent and the small UNet need not learn the rest.
LAYOUTS: dict[tuple[str, str], tuple[int, int, int]] = {
    ("", ""): (6, 1, 1), ("large", ""): (8, 0, 0), ("small", ""): (4, 2, 2),
    ("", "left"): (6, 0, 1), ("", "right"): (6, 2, 1),
    ("small", "left"): (4, 0, 2), ("small", "right"): (4, 4, 2), ("small", "top"): (4, 2, 0),
    ("small", "bottom"): (4, 2, 4), ("small", "top left"): (4, 0, 0), ("small", "top right"): (4, 4, 0),
    ("small", "bottom left"): (4, 0, 4), ("small", "bottom right"): (4, 4, 4),
}
