"""How questions are put: several ways in English, one or two in five other languages.

Fields: ``{a}`` and ``{b}`` are names, in English with article and number where the form needs it;
``{is}`` is "is" or "are". Other languages than English, Chinese and Japanese set the name after a
colon, a form that is right whatever its gender and number.
"""

# ruff: noqa: RUF001  (Chinese and Japanese have question marks and commas of their own)

from __future__ import annotations

__all__ = ["TEMPLATES", "WORDS"]

TEMPLATES: dict[str, dict[str, tuple[str, ...]]] = {
    "en": {
        "what": (
            "What is in the picture?",
            "What is in the image?",
            "What can you see?",
            "What do you see in the picture?",
        ),
        "what_one": ("What is this?", "What is in the picture?", "What is shown?"),
        "what_left": (
            "What is on the left?",
            "What is on the left side?",
            "What is on the left of the picture?",
        ),
        "what_right": (
            "What is on the right?",
            "What is on the right side?",
            "What is on the right of the picture?",
        ),
        "what_top": (
            "What is at the top?",
            "What is on top?",
            "What is at the top of the picture?",
        ),
        "what_bottom": ("What is at the bottom?", "What is at the bottom of the picture?"),
        "what_left_of": ("What is left of the {a}?", "What is to the left of the {a}?"),
        "what_right_of": ("What is right of the {a}?", "What is to the right of the {a}?"),
        "what_above": ("What is above the {a}?",),
        "what_below": ("What is below the {a}?", "What is under the {a}?"),
        "how_many": (
            "How many {a} are there?",
            "How many {a} are in the picture?",
            "How many {a} do you see?",
            "How many {a} can you see?",
        ),
        "how_many_all": (
            "How many things are there?",
            "How many objects are in the picture?",
            "How many objects are there?",
        ),
        "colour": (
            "What colour {is} the {a}?",
            "What color {is} the {a}?",
            "Which colour {is} the {a}?",
            "What is the colour of the {a}?",
        ),
        "colour_ground": (
            "What colour is the background?",
            "What color is the background?",
            "What is the background colour?",
        ),
        "where": (
            "Where {is} the {a}?",
            "Where in the picture {is} the {a}?",
            "In which part of the picture {is} the {a}?",
        ),
        "where_across": (
            "{Is} the {a} left or right of the {b}?",
            "{Is} the {a} to the left or to the right of the {b}?",
        ),
        "where_down": ("{Is} the {a} above or below the {b}?",),
        "exists": ("{Is} there {a}?", "{Is} there {a} in the picture?", "Do you see {a}?"),
    },
    "zh": {
        "what": ("图中有什么？", "图片里有什么？"),
        "what_left": ("左边是什么？",),
        "what_right": ("右边是什么？",),
        "what_top": ("上面是什么？",),
        "what_bottom": ("下面是什么？",),
        "what_left_of": ("{a}的左边是什么？",),
        "what_right_of": ("{a}的右边是什么？",),
        "what_above": ("{a}的上面是什么？",),
        "what_below": ("{a}的下面是什么？",),
        "how_many": ("有几个{a}？", "图中有多少个{a}？"),
        "how_many_all": ("图中有几个物体？",),
        "colour": ("{a}是什么颜色？", "{a}是什么颜色的？"),
        "colour_ground": ("背景是什么颜色？",),
        "where": ("{a}在哪里？", "{a}在图片的什么位置？"),
        "where_across": ("{a}在{b}的左边还是右边？",),
        "where_down": ("{a}在{b}的上面还是下面？",),
        "exists": ("有{a}吗？", "图中有{a}吗？"),
    },
    "ja": {
        "what": ("何がありますか？", "画像には何がありますか？"),
        "what_left": ("左に何がありますか？",),
        "what_right": ("右に何がありますか？",),
        "what_top": ("上に何がありますか？",),
        "what_bottom": ("下に何がありますか？",),
        "what_left_of": ("{a}の左に何がありますか？",),
        "what_right_of": ("{a}の右に何がありますか？",),
        "what_above": ("{a}の上に何がありますか？",),
        "what_below": ("{a}の下に何がありますか？",),
        "how_many": ("{a}はいくつありますか？",),
        "how_many_all": ("物はいくつありますか？",),
        "colour": ("{a}は何色ですか？",),
        "colour_ground": ("背景は何色ですか？",),
        "where": ("{a}はどこにありますか？", "{a}はどこですか？"),
        "where_across": ("{a}は{b}の左ですか、右ですか？",),
        "where_down": ("{a}は{b}の上ですか、下ですか？",),
        "exists": ("{a}はありますか？",),
    },
    "fr": {
        "what": ("Qu'y a-t-il sur l'image ?", "Que voit-on ?"),
        "what_left": ("Qu'y a-t-il à gauche ?",),
        "what_right": ("Qu'y a-t-il à droite ?",),
        "what_top": ("Qu'y a-t-il en haut ?",),
        "what_bottom": ("Qu'y a-t-il en bas ?",),
        "how_many": ("Combien de fois voit-on : {a} ?",),
        "how_many_all": ("Combien d'objets y a-t-il ?",),
        "colour": ("De quelle couleur est : {a} ?",),
        "colour_ground": ("De quelle couleur est le fond ?",),
        "where": ("Où est : {a} ?",),
        "exists": ("Voit-on : {a} ?",),
    },
    "de": {
        "what": ("Was ist im Bild?", "Was ist zu sehen?"),
        "what_left": ("Was ist links?",),
        "what_right": ("Was ist rechts?",),
        "what_top": ("Was ist oben?",),
        "what_bottom": ("Was ist unten?",),
        "how_many": ("Wie oft ist zu sehen: {a}?",),
        "how_many_all": ("Wie viele Dinge sind im Bild?",),
        "colour": ("Welche Farbe hat: {a}?",),
        "colour_ground": ("Welche Farbe hat der Hintergrund?",),
        "where": ("Wo ist: {a}?",),
        "exists": ("Ist zu sehen: {a}?",),
    },
    "es": {
        "what": ("¿Qué hay en la imagen?", "¿Qué se ve?"),
        "what_left": ("¿Qué hay a la izquierda?",),
        "what_right": ("¿Qué hay a la derecha?",),
        "what_top": ("¿Qué hay arriba?",),
        "what_bottom": ("¿Qué hay abajo?",),
        "how_many": ("¿Cuántas veces se ve: {a}?",),
        "how_many_all": ("¿Cuántos objetos hay?",),
        "colour": ("¿De qué color es: {a}?",),
        "colour_ground": ("¿De qué color es el fondo?",),
        "where": ("¿Dónde está: {a}?",),
        "exists": ("¿Se ve: {a}?",),
    },
}
"""Language -> form -> ways to put it. A form that a language lacks is not asked in it."""

WORDS: dict[str, dict[str, str]] = {
    "en": {"yes": "yes", "no": "no", "left": "left", "right": "right"}
    | {"above": "above", "below": "below", "separator": ", "},
    "zh": {"yes": "有", "no": "没有", "left": "左边", "right": "右边"}
    | {"above": "上面", "below": "下面", "separator": "、"},
    "ja": {"yes": "はい", "no": "いいえ", "left": "左", "right": "右"}
    | {"above": "上", "below": "下", "separator": "、"},
    "fr": {"yes": "oui", "no": "non", "separator": ", "},
    "de": {"yes": "ja", "no": "nein", "separator": ", "},
    "es": {"yes": "sí", "no": "no", "separator": ", "},
}
"""Language -> answers that are neither names nor colours nor places, and what joins a list."""
