"""What `grammar` makes prompts of: words that look alike, and rules that put them together.

No person, place, brand, artist or invented character, nothing that a webui reads as more than a
word, and no word for people in what is said of things.
"""

from __future__ import annotations

FRAMES = (
    "{}",
    "a photo of {}",
    "a portrait of {}",
    "a close-up photo of {}",
    "a picture of {}",
    "a photo of the face of {}",
    "a black and white photo of {}",
    "a studio portrait of {}",
    "a candid photo of {} in a street",
    "a full-body photo of {} in front of a plain wall",
    "a film still of {}",
    "a selfie of {}",
    "an oil painting of {}",
    "a painting of {} in a garden",
    "a watercolor of {}",
    "a pencil drawing of {}",
    "a cartoon of {}",
    "{} smiling at the camera",
    "{} giving a speech",
    "{} sitting in a cafe",
    "{} walking on a beach",
    "{} on a stage at night",
    "{} in a park in autumn",
    "{}'s face, close-up",
    "{}, looking at the viewer",
    "{}, professional photograph",
)
"""What a name or a person's description stands in, at "{}"."""

WORDS = {
    "animal": """
cat, dog, fox, wolf, rabbit | horse, donkey, zebra, cow, deer | lion, tiger, leopard, cheetah |
bear, panda, koala, gorilla | sheep, goat, pig, llama | mouse, rat, squirrel, hamster, hedgehog |
elephant, rhinoceros, hippopotamus | giraffe, camel, moose | turtle, frog, lizard, crocodile""",
    "bird": """
sparrow, robin, parrot, pigeon, crow | owl, eagle, hawk, vulture | duck, goose, swan, pelican |
flamingo, heron, stork, ostrich | chicken, peacock, pheasant""",
    "swimming": """
shark, whale, dolphin, seal | goldfish, catfish, swordfish | octopus, squid, jellyfish |
crab, lobster, starfish""",
    "insect": """
bee, wasp, fly, moth | butterfly, dragonfly, grasshopper | ladybug, beetle, ant, spider, snail""",
    "fruit": """
apple, orange, peach, plum, pear | lemon, lime, grapefruit | banana, pineapple, mango |
cherry, strawberry, raspberry, grape | melon, watermelon, pumpkin, coconut""",
    "vegetable": """
carrot, potato, onion, radish, turnip | tomato, eggplant, cucumber, artichoke |
cabbage, lettuce, cauliflower""",
    "meal": """
soup, stew, porridge, curry | rice, noodles, pasta, salad | beans, lentils, mushrooms, olives""",
    "baked": """
cake, pie, tart, pizza | sandwich, burger, hot dog, taco | doughnut, cookie, muffin, pretzel |
pancake, waffle, croissant""",
    "drink": "tea, coffee, hot chocolate | water, milk, lemonade | wine, beer, orange juice",
    "car": """
car, van, taxi, ambulance | bus, truck, tram, fire engine | bicycle, motorcycle, scooter |
tractor, bulldozer, excavator | carriage, cart, wheelbarrow""",
    "train": "train, steam locomotive, monorail",
    "boat": """
sailboat, rowboat, canoe, kayak | ferry, cargo ship, yacht, tugboat |
submarine, raft, sailing ship""",
    "aircraft": "airplane, helicopter, glider, biplane | hot air balloon, airship, rocket, kite",
    "furniture": """
chair, armchair, stool, bench | table, desk, workbench | sofa, bed, mattress |
cabinet, wardrobe, bookshelf, dresser | mirror, fireplace, grandfather clock""",
    "object": """
cup, mug, teapot, kettle, pitcher | bowl, plate, vase, jar, bottle |
box, basket, suitcase, backpack, bucket | clock, wristwatch, compass, hourglass |
knife, fork, spoon, ladle | hammer, wrench, screwdriver, saw, axe |
book, notebook, magazine, newspaper | key, coin, ring, necklace | umbrella, broom, ladder, rake |
telephone, radio, camera, typewriter | television, computer, laptop, printer |
candle, lantern, light bulb, lamp | pencil, paintbrush, crayon | ball, balloon, globe |
shoe, boot, sandal, slipper | hat, cap, glove, scarf""",
    "instrument": """
violin, cello, guitar, banjo, ukulele | piano, organ, accordion | trumpet, saxophone, trombone |
flute, clarinet, oboe | drum, tambourine, xylophone""",
    "toy": """
toy robot, toy car, toy train | stuffed bear, stuffed rabbit, stuffed elephant |
rocking horse, spinning top, jigsaw puzzle""",
    "building": """
house, cottage, cabin, barn | castle, palace, fortress, tower | church, temple, mosque, cathedral |
skyscraper, office building, apartment building | factory, warehouse, power plant |
lighthouse, windmill, watermill | hotel, school, museum, hospital | bridge, gate, fountain""",
    "land": """
mountain, hill, volcano, cliff | lake, pond, river, stream | forest, jungle, orchard, vineyard |
meadow, field, prairie | desert, beach, sand dune | canyon, valley, gorge |
waterfall, geyser, hot spring | glacier, iceberg, snowfield | island, bay, lagoon, reef""",
    "tree": "oak, maple, birch, willow | pine, fir, cedar | palm tree, olive tree, cherry tree",
    "flower": """
rose, tulip, peony, carnation | daisy, sunflower, dandelion | lily, orchid, iris, daffodil |
poppy, violet, bluebell | cactus, fern, mushroom""",
    "room": """
kitchen, dining room, pantry | bedroom, living room, study | bathroom, laundry room |
library, classroom, office | workshop, garage, attic, cellar | hallway, staircase, lobby |
restaurant, cafe, bakery, bar | greenhouse, swimming pool, gym | theater, cinema, concert hall""",
    "street": """
street, alley, avenue, square | passage, tunnel, courtyard |
harbor, train station, airport, parking lot | market, playground, park, garden |
village, town, city, suburb""",
    "road": "road, highway, dirt track",
    "sight": """
full moon, crescent moon, sun, comet | rainbow, lightning bolt, cloud |
campfire, bonfire, firework | planet, galaxy, nebula | snowflake, water drop, soap bubble""",
    "fantasy": """
dragon, unicorn, griffin, sea monster | robot, spaceship, flying saucer |
floating island, ice cave, treehouse, haunted house""",
    "pattern": """
stripes, waves, zigzags | circles, dots, spirals | triangles, squares, hexagons |
leaves, feathers, flowers""",
    "color": """
red, blue, green, yellow | orange, purple, pink, turquoise | black, white, gray |
brown, beige, golden, silver, amber""",
    "fur": "black, white, gray, brown | spotted, striped | orange, golden",
    "material": """
wooden, bamboo, wicker | metal, brass, copper, iron | glass, crystal, plastic, jade |
stone, marble, clay, ceramic | paper, cardboard, leather, knitted""",
    "size": "small, large | tiny, huge, giant",
    "state": "old, new | broken, dusty, rusty, shiny | antique, modern, ornate, plain",
    "mood": """
quiet, busy, crowded, empty | sunny, gloomy, foggy, snowy | modern, abandoned, narrow, wide""",
    "time": """
at night, at noon | at dawn, at dusk, at sunrise, at sunset | in the morning, in the evening""",
    "season": "in spring, in summer, in autumn, in winter",
    "weather": """
in the rain, in the snow, in fog, in bright sunshine |
under a clear sky, under dark clouds, under a starry sky | during a thunderstorm, on a windy day
""",
    "art": """
painting, drawing, illustration, cartoon, comic panel | oil painting, watercolor, fresco, mural |
pencil drawing, charcoal drawing, ink drawing, pastel drawing |
3d render, clay model, paper cutout | woodcut, linocut, etching, engraving |
mosaic, tapestry, embroidery, stained glass window""",
    "adult": "man, woman",
    "child": "boy, girl",
    "count": "1girl, 1boy",
    "age": "old, young | elderly, middle-aged",
    "childhood": "little, teenage",
    "haircolor": "blonde, brown, black, red | gray, white",
    "hairlength": "long, short, shoulder-length",
    "hairstyle": "curly, straight, wavy, messy",
    "eyecolor": "blue, brown, green, gray",
    "skin": "dark, fair, tan, pale",
    "garment": """
coat, jacket, raincoat, parka | sweater, hoodie, vest | shirt, t-shirt, cardigan |
suit, uniform, tracksuit""",
    "gown": "dress, skirt, blouse",
    "headwear": "hat, cap, beanie, beret | helmet, headscarf, turban, headband",
    "worn": "scarf, bow tie, necklace, backpack, apron",
    "feeling": """
smiling, laughing, grinning | crying, frowning, shouting |
looking surprised, looking tired, looking serious, looking bored""",
    "job": """
nurse, doctor, surgeon, dentist | chef, baker, bartender | waiter, waitress |
farmer, gardener, fisherman, beekeeper | carpenter, mechanic, plumber, electrician, blacksmith |
singer, dancer, actor | pianist, violinist, guitarist, drummer |
teacher, professor, student, librarian | scientist, engineer, architect, lawyer |
soldier, sailor, firefighter, astronaut | photographer, painter, writer |
cyclist, hiker, skier, surfer, swimmer | shopkeeper, street vendor, cashier | priest, monk, nun |
businessman, businesswoman""",
}
"""Words for a place in a rule. Those between two "|" look alike, and are swapped for each other."""

RULES = {
    "things": """
3x <scene> | 4x <medium> of <scene> | 2x <scene>, <light> | 2x <scene>, <style> |
2x <medium> of <scene>, <light> | <medium> of <scene>, <style> | <scene>, <light>, <style> |
<tagged>, <light>, <style>""",
    "scene": """
3x <beast> | 2x <winged> | <fish> | <bug> | 2x <food> | 2x <traffic> | <ship> | <plane> |
2x <furnished> | 4x <item> | <music> | 2x <built> | 3x <landscape> | 2x <plant> | 2x <inside> |
2x <outside> | <heaven> | <tale> | <ornament> | <both>""",
    "medium": """
6x a photo | a photograph | a picture | a close-up photo | a wide-angle photo |
a black and white photo | 3x a <art>""",
    "beast": """
a <animal> | a <fur> <animal> | a <size> <animal> <outdoors> | a <fur> <animal> <lying> |
a <animal> <lying> <outdoors> | a <fur> <animal> <lying> <weather> | two <animal:s> <lying> |
a group of <animal:s> <outdoors> <time> | a <animal> next to a <object>""",
    "winged": """
a <bird> | a <size> <fur> <bird> | a <bird> <perched> | a <fur> <bird> <perched> <time> |
three <bird:s> <perched> | a <bird> flying over a <land> |
a flock of <bird:s> over a <land> <time>""",
    "fish": """
a <swimming> | a <size> <swimming> in clear water | two <swimming:s> in the sea |
a <color> <swimming> in an aquarium | a <swimming> under the ice""",
    "bug": """
a <insect> on a <flower> | a <color> <insect> on a leaf | a <insect> in close-up |
two <insect:s> on a <color> <flower>""",
    "food": """
a <fruit> | a <vegetable> on a cutting board | a bowl of <fruit:s> <indoors> |
a basket of <fruit:s> and <vegetable:s> | two <fruit:s> on a <color> plate |
a slice of <fruit> next to a <material> <object> | a <material> bowl of <meal> |
a plate of <meal> <indoors> | a pot of <meal> on a stove | a <baked> on a <color> plate |
a <baked> and a cup of <drink> | a glass of <drink> <indoors> | a <color> cup of <drink> |
a tray of <baked:s> in a bakery window""",
    "traffic": """
a <car> | a <color> <car> | a <state> <color> <car> | a <color> <car> in a <mood> <street> |
a <car> parked in front of a <building> | two <car:s> on a <road> <weather> |
a <color> <car> on a <road> by a <land> | a <train> |
a <color> <train> crossing a bridge <season> | a <state> <train> in a station <time>""",
    "ship": """
a <boat> | a <color> <boat> on a lake | a <size> <boat> at sea <weather> |
a <material> <boat> on a beach | two <boat:s> in a harbor <time>""",
    "plane": """
a <aircraft> | a <color> <aircraft> in the sky | a <aircraft> above a <land> <time> |
a <state> <aircraft> on a field <season>""",
    "furnished": """
a <furniture> | a <color> <furniture> in a <room> | a <material> <furniture> |
a <state> <material> <furniture> in an empty room | a <furniture> and a <color> lamp in a <room> |
a <color> <object> on a <material> <furniture> | a <size> <furniture> next to a window <time>""",
    "item": """
a <object> | a <color> <object> | a <material> <object> | a <state> <object> <indoors> |
a <size> <color> <object> <indoors> | a <color> <material> <object> <indoors> |
a <material> <object> and a <color> <toy> | two <color> <object:s> <indoors> |
a row of <material> <object:s> | a pile of <state> <object:s> | a <toy> |
a <color> <toy> on the floor | a <object> to the left of a <fruit> |
a <fruit> behind a <color> <object>""",
    "music": """
a <instrument> | a <state> <instrument> <indoors> | a <color> <instrument> on a stage |
a <instrument> leaning against a <color> wall | a <instrument> and a <furniture>""",
    "built": """
a <building> | a <state> <building> | a <color> <building> <season> |
a <material> <building> on a hill | a <building> by a <land> <time> |
a ruined <building> <weather> | a <mood> <building> at the end of a <street>""",
    "landscape": """
a <land> | a <land> <time> | a <land> <season> | a <land> <weather> |
a <mood> <land> with a <building> | a <land> seen from above | a <land> with <tree:s> <season> |
a <color> <building> and a <land> <weather> | a path through a <land> <time>""",
    "plant": """
a <flower> | a <color> <flower> in a <material> vase | a bouquet of <flower:s> <indoors> |
a field of <color> <flower:s> <time> | a <tree> <season> | a <size> <tree> on a hill <weather> |
a row of <tree:s> along a <street> | a <flower> growing in a <object>""",
    "inside": """
a <room> | a <mood> <room> | a <room> with <color> walls |
a <state> <room> with a <color> <furniture> |
a <mood> <room> with a <material> <furniture> <time> | a <room> full of <object:s>""",
    "outside": """
a <street> | a <mood> <street> <time> | a <street> <weather> |
a <mood> <street> with a <building> | a <street> with <color> houses <season> |
a <street> with <tree:s> <season> | a <street> seen from above <time>""",
    "heaven": """
a <sight> | a <sight> over a <land> | a <color> <sight> above a <building> |
a <size> <sight> <time>""",
    "tale": """
a <fantasy> | a <size> <color> <fantasy> | a <fantasy> in a <land> |
a <fantasy> above a <mood> <street> <time> | a <material> <fantasy> <weather>""",
    "ornament": """
a pattern of <pattern> | an abstract pattern of <color> <pattern> | <color> <pattern> on a wall |
a carpet with <color> <pattern> | <color> <pattern> made of sand""",
    "both": """
a <animal> and a <bird> | a <animal> in a <room> | a <color> <car> and a <animal> |
a <fruit> and a <color> <object> | a <object>, a <fruit> and a <toy> |
a <bird> on a <color> <furniture>""",
    "tagged": """
<animal>, <land> | <color> <car>, <street> | <building>, <tree>, <land> |
<object>, <fruit>, <furniture> | <room>, <furniture>""",
    "outdoors": """
in the grass | in a <land> | in a <street> | by a <land> | on a rock | under a tree |
near a <building> | behind a fence""",
    "indoors": """
on a table | on a <color> table | on a <material> table | on a shelf | on the floor |
on a windowsill | in a <room> | on a white background""",
    "lying": """
asleep | sitting | running | standing | jumping | drinking water | eating | lying down |
looking up | hiding""",
    "perched": """
on a branch | on a roof | in a nest | on a fence | on the water | in flight | in a cage |
on a <object>""",
    "light": """
soft light | hard light | warm evening light | golden hour | blue hour | moonlight | candlelight |
neon light | backlit | morning mist | overcast | studio lighting | long shadows |
sunlight through a window""",
    "style": """
3x <filler> | watercolor | oil painting | pencil sketch | pixel art | low-poly | line art |
flat colors | impressionist style | cubist style | pop art | art deco | woodblock print |
vintage postcard | paper collage | stained glass | isometric view | anime style |
comic book style | retro futurism | minimalist | surreal | monochrome | sepia""",
    "people": "6x <bare> | 5x <framed> | 4x <scenic> | 2x <depicted> | 2x <group> | <tags>",
    "anyone": "5x a person | 3x somebody | 2x someone | 3x a <adult> | a <child>",
    "short": "a <age> <adult> | a <childhood> <child> | a <job> | a bald man | a <age> person",
    "looks": """
<short> | 3x a <adult> with <hair> | 3x a <age> <adult> with <hair> | a <adult> with <trait> |
a <adult> with <hair> and <trait> | a man with <beard> | a <age> man with <hair> and <beard> |
a <child> with <hair> | a <childhood> <child> with <hair> | a person with <hair> |
a <job> with <hair> | a <age> <job> | a <age> <job> with <trait>""",
    "dressed": """
<looks> in <clothes> | 2x <looks> wearing <clothes> |
<short> with <accessory> and a <color> <garment> |
a woman with <hair> in a <color> <gown> | a <age> woman wearing a <color> <gown>""",
    "hair": """
3x <haircolor> hair | 2x <hairlength> <haircolor> hair | 2x <hairstyle> <haircolor> hair |
<hairlength> hair | <hairlength> <hairstyle> <haircolor> hair | a <haircolor> ponytail |
<haircolor> braids | a bun | bangs""",
    "trait": """
2x glasses | round glasses | sunglasses | freckles | wrinkles | <eyecolor> eyes | <skin> skin |
an earring | a tattoo | dimples""",
    "beard": """
a beard | a <haircolor> beard | a long beard | a short beard | a mustache | stubble | a goatee""",
    "clothes": """
4x a <color> <garment> | 2x a <garment> | a <color> <garment> and <accessory> |
jeans and a <color> <garment> | <accessory>""",
    "accessory": "2x a <color> <headwear> | a <headwear> | a <color> <worn>",
    "scenic": """
2x <looks> <doing> | 2x <looks> <doing> <where> | <looks> <feeling> | <dressed> <where> |
<dressed> <doing> | <dressed> <feeling> | <anyone> <doing> <where> | <anyone> <feeling> <where> |
<short> <doing> <where> <time> | <short> <where> <weather>""",
    "depicted": """
<medium> of <looks> <where> | <medium> of <looks> <doing> | <medium> of <dressed> |
<scenic>, <light> | <scenic>, <style> | a portrait of <dressed>, <light> |
a close-up portrait of <looks>, <style>""",
    "group": """
<several> | <medium> of <several> | <several> <doing> | <several> <where> |
<medium> of <several> <doing> | <several> <where> <time>""",
    "several": """
two <adult:s> | two <age> <adult:s> | three <child:s> | two <job:s> | a group of <job:s> |
a <age> couple | a couple with <hair> | two friends | a family | a crowd of people |
a <adult> and a <child> | a <adult> with <hair> and a <job> | a man and a woman |
a <adult> in a <color> <garment> and a <child> in a <color> <garment>""",
    "tags": """
<count>, solo, <hairlength> hair, <haircolor> hair, <where> |
<count>, <haircolor> hair, <eyecolor> eyes, <color> <garment> |
<adult>, <haircolor> hair, <color> <headwear>, <light> | <job>, <age> <adult>, <where>, <style>""",
    "doing": """
reading a newspaper | reading a book | waiting for a bus | drinking from a <color> cup |
eating a <baked> | looking at the sea | walking a dog | holding a <animal> |
holding a <color> <object> |
carrying a <object> | repairing a <car> | riding a <color> bicycle | driving a <car> |
talking on the telephone | standing in the rain | sitting on a bench | lying in the grass |
playing chess | playing the <instrument> | playing soccer | playing tennis | cooking <meal> |
baking a <baked> | painting a <furniture> | cutting a <vegetable> | buying <fruit:s> |
picking <fruit:s> | watering a <flower> | planting a <tree> | feeding a <bird> |
petting a <animal> | writing a letter | sewing | knitting | dancing | singing | running |
climbing a ladder | swimming | fishing | skiing | skating | sleeping | thinking | praying |
waving | clapping | yawning | stretching | pointing at a <building> | opening a window |
washing dishes | sweeping the floor | carrying a <size> box | taking a photo |
building a sandcastle | chopping wood | digging a hole | ironing a <garment> |
blowing out candles""",
    "where": """
in a <room> | in a <mood> <room> | in a <street> | in a <mood> <street> |
in front of a <building> | in front of a <color> wall | by a <land> | in a <land> | on a train |
on a boat | on a balcony | on a stage | on a rooftop | under a <tree> | at a <material> table |
next to a <car> | at a window | in an elevator | at a bus stop""",
    "filler": """
highly detailed | sharp focus | film grain | intricate details | high resolution | high quality |
best quality | 4k | 8k | hdr | masterpiece | award-winning | professional | photorealistic |
realistic | hyperrealistic | ultra detailed | fine details | crisp | clean | detailed background |
simple background | plain background | blurry background | bokeh | shallow depth of field |
deep focus | soft focus | wide shot | close-up | centered | centered composition |
balanced composition | rule of thirds | symmetrical | dynamic angle | low angle | high angle |
eye level | dramatic lighting | cinematic lighting | cinematic | natural light | studio light |
ambient light | volumetric light | rim light | high contrast | low contrast | vivid colors |
muted colors | pastel colors | warm tones | cool tones | vignette | lens flare | analog film |
35mm film | raw photo | long exposure | digital art | concept art | textured | atmospheric""",
}
"""What may stand in a place, parted by "|"; "3x" is as likely as three others, ":s" the plural."""

_MINOR = "color fur material size state mood time season weather art feeling eyecolor skin"
MINOR = frozenset(_MINOR.split())
"""Places whose words say little of a subject; they are swapped less often."""

_IRREGULAR = """
mouse mice, goose geese, wolf wolves, knife knives, scarf scarves, potato potatoes,
tomato tomatoes, mango mangoes, cactus cacti, squid squid, sheep sheep, deer deer, moose moose
"""
_PAIRS = (pair.split() for pair in _IRREGULAR.split(","))
PLURALS = {one: many for one, many in _PAIRS}
