"""Genders of names in French, German and Spanish, which articles and colours follow."""

# ruff: noqa: RUF001  (names have typographic apostrophes)

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["FRENCH", "GERMAN", "SPANISH", "Genders"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Genders:
    """Which names are not masculine, or not one thing; names as concepts.json has them."""

    language: str
    feminine: frozenset[str]
    neuter: frozenset[str] = frozenset()
    plural: frozenset[str] = frozenset()

    def of(self, name: str) -> str:
        """One of "m", "f", "n"."""
        return "f" if name in self.feminine else "n" if name in self.neuter else "m"


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split("|"))


FRENCH = Genders(
    language="fr",
    feminine=_names(
        "licorne|vache|chèvre|girafe|souris|chauve-souris|chouette|grenouille|tortue|baleine"
        "|pieuvre|crevette|abeille|coccinelle|araignée|rose|tulipe|feuille d’érable|pastèque"
        "|orange|banane|pomme|poire|cerises|fraise|tomate|aubergine|carotte|cuisse de poulet"
        "|frites|pizza|glace|sucette|chope|cuillère|ambulance|voiture de police|voiture"
        "|voiture de course|moto|planche à roulettes|fusée|maison|tente|grande roue|fontaine"
        "|église|balle de baseball|balle de tennis|cible|pièce de puzzle|trompette|guitare"
        "|radio|cloche|lunettes|écharpe|chaussettes|robe|chaussure de sport"
        "|chaussure à talon haut|couronne|toque universitaire|casquette|bague|hache"
        "|clé à molette|scie|roue dentée|échelle|clé|brosse à dents|bougie|ampoule|enveloppe"
        "|boîte|montre|chaise|porte|toilettes|citrouille|ancre|valise|palette de peinture|lune"
        "|étoile|goutte d’eau|planète"
    ),
    plural=_names("cerises|pancakes|frites|lunettes|gants|chaussettes|ciseaux|livres|toilettes"),
)
SPANISH = Genders(
    language="es",
    feminine=_names(
        "cebra|vaca|oveja|cabra|jirafa|águila|rana|tortuga|serpiente|ballena|gamba|mariposa"
        "|abeja|mariquita|araña|rosa|palmera|hoja de arce|uvas|sandía|naranja|piña|manzana|pera"
        "|cerezas|fresa|berenjena|zanahoria|cebolla|tortitas|patatas fritas|pizza|hamburguesa"
        "|galleta|palomitas|tarta|magdalena|piruleta|leche|copa de vino|jarra de cerveza"
        "|cuchara|ambulancia|moto|bicicleta|casa|tienda de campaña|noria de feria|fuente"
        "|iglesia|pelota de béisbol|pelota de tenis|pelota de voleibol|diana|cometa"
        "|pieza de puzle|trompeta|guitarra|radio|campana|gafas|camiseta|bufanda|mochila"
        "|zapatilla deportiva|corona|gorra|hacha|llave inglesa|sierra de carpintería|escalera"
        "|tijeras|llave|escoba|cámara|televisión|vela|bombilla|caja|silla|cama|puerta|calabaza"
        "|ancla|maleta|paleta de pintor|luna|estrella|nube|gota"
    ),
    plural=_names(
        "uvas|cerezas|tortitas|patatas fritas|palomitas|auriculares|gafas|vaqueros|guantes"
        "|calcetines|tijeras|libros"
    ),
)
GERMAN = Genders(
    language="de",
    feminine=_names(
        "Katze|Kuh|Ziege|Giraffe|Maus|Fledermaus|Ente|Eule|Schildkröte|Schlange|Garnele|Schnecke"
        "|Biene|Spinne|Rose|Sonnenblume|Tulpe|Tanne|Palme|Wassermelone|Orange|Zitrone|Banane"
        "|Ananas|Birne|Erdbeere|Kiwi|Tomate|Avocado|Aubergine|Karotte|Peperoni|Gurke|Zwiebel"
        "|Brezel|Pizza|Eiscreme|Torte|Milch|Dampflokomotive|Rakete|Kirche|Zielscheibe|Trompete"
        "|Gitarre|Geige|Trommel|Glocke|Brille|Jeans|Handtasche|Krone|Mütze|Axt|Handsäge|Leiter"
        "|Schere|Büroklammer|Zahnbürste|Tastatur|Kamera|Kerze|Glühbirne|Armbanduhr|Sanduhr|Tür"
        "|Toilette|Aktentasche|Mischpalette|Sonne|Wolke|Schneeflocke"
    ),
    neuter=_names(
        "Pferd|Einhorn|Zebra|Schwein|Schaf|Kamel|Nashorn|Känguru|Küken|Krokodil|Ahornblatt|Brot"
        "|Croissant|Sandwich|Ei|Popcorn|Sushi|Weinglas|Feuerwehrauto|Taxi|Auto|Rennauto"
        "|Motorrad|Fahrrad|Skateboard|Segelboot|Schiff|Flugzeug|UFO|Haus|Schloss|Zelt|Riesenrad"
        "|Puzzleteil|Saxofon|Akkordeon|Mikrofon|Radio|T-Shirt|Kleid|Zahnrad|Vorhängeschloss"
        "|Handy|Telefon|Bett|Geschenk|Mikroskop|Teleskop|Feuer"
    ),
    plural=_names("Trauben|Kirschen|Pommes frites|Handschuhe|Socken|Bücher"),
)
