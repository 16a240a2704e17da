"""The wordings of ``tasks``: ``|`` lists, one for each split where the splits must differ."""

from __future__ import annotations

from functools import lru_cache

from course_lm import lexicon
from course_lm.frames import part, words, written

# What marks a duty. Both splits share these words: they are the rule. The frames around them differ.
DUTY = "must|must|must|shall|has to|needs to|is required to|is obliged to"

DUTY_FRAMES = {
    "train": """{A} {D} {v} {O} within {T} {G}.|{A} {D} {v} {O} within {T}.|Within {T} {G}, {A} {D} {v} {O}.|{A} {D}
{v} {O} no later than {T} {G}.|{A} {D} {v} {O}.|Under {Z}, {A} {D} {v} {O} within {T}.|{A} {D} {v} {O} at most {T}
{G}.|{Z} says that {A} {D} {v} {O}.|For {R}, {A} {D} {v} {O} within {T} {G}.|In every case {A} {D} {v} {O}.|{A} {D}
{v} {O} before {T} have passed.|No later than {T} {G}, {A} {D} {v} {O}.|As {R} decided, {A} {D} {v} {O}.""",
    "test": """At the latest {T} {G}, {A} {D} {v} {O}.|According to {Z}, {A} {D} {v} {O} in less than {T}.|On behalf
of {R}, {A} {D} {v} {O}.|{A} {D} {v} {O} in {T} or sooner {G}.|Since the last audit {A} {D} {v} {O}.|Inside {T}, {A}
{D} {v} {O} by order of {R}.""",
}

NO_DUTY = {
    "train": """{A} may {v} {O} within {T}.|{A} can {v} {O} in {C}.|Last year {A} {vp} {O}.|{A} has already {vp}
{O}.|{R} was told that {A} {vp} {O} in {T}.|{A} is free to {v} {O}.|{O} were {vp} by {A} {T} ago.|{A} might {v} {O}
with {R}.|{O} are kept in {C}.|{A} is allowed to {v} {O} for {T}.|{R} thanked {A} for {O}.|It took {A} {T} to find
{O}.""",
    "test": """{A} could {v} {O} in {T}.|Some time ago {A} {vp} {O} for {R}.|Nobody asks {A} about {O}.|{A} is
welcome to {v} {O}.|In {C}, {R} saw {O} {T} earlier.""",
}

# Signals by tier. They are the rule, so both splits share them; what a signal is about, and the word between, differ.
RISK = {
    "high": """leaked pages|leaked copies|a leak|stolen laptops|a stolen key|unencrypted copies|an unencrypted
stick|biometric checks|a biometric scan|medical details|medical notes|proven fraud|a fraud case|bribes|a paid bribe|
automatic rejection|an automatic refusal|no human review|names of children|sanctioned owners|a sanctioned buyer|
shared passwords|a shared password|ransomware|a ransomware attack|secret profiling|a secret score|a hacked account|
forged signatures""",
    "medium": """late answers|a late delivery|incomplete fields|incomplete forms|unsigned pages|an unsigned copy|
outdated terms|an outdated form|a customer chatbot|chatbot answers|a new supplier|another supplier|an overdue
review|overdue work|missing logs|a missing log|a slow system|slow answers|untrained staff|an untrained helper|
duplicate entries|a duplicate line|an unclear owner|unclear duties|a long queue|two open questions""",
    "low": """a typing error|typing errors|public pages|a public summary|anonymised copies|an anonymised list|a new
font|another font|an internal draft|a first draft|invented names|an invented example|a translated heading|a longer
heading|a broken link|broken links|a spelling check|spelling mistakes|a meeting|a short meeting|a new colour|another
colour|sorted lists|a sorted table|a lunch break|new chairs""",
}
BETWEEN = {"train": "of|with|about|from|in|for|on|at", "test": "around|near|behind|among|beside"}

CASES = {
    "one": {
        "train": """{A} reports {0}.|{A} found {0}.|The audit of {A} shows {0}.|{R} asks about {0}.|There is {0} at
{A}.|We saw {0} this week.|{A} plans {0} for next month.|A check by {R} brought up {0}.|{A} deals with {0} at
present.|It is about {0}.|{R} was told of {0} by {A}.|During the visit {A} noticed {0}.""",
        "test": """Yesterday {A} came across {0}.|{R} wrote to us on account of {0}.|Our topic today is {0}.|The
note by {A} describes {0}.""",
    },
    "two": {
        "train": """{A} reports {0} and {1}.|{A} found {0}, and also {1}.|The audit of {A} shows {0} as well as
{1}.|{R} asks about {0}. There is also {1}.|We saw {0} this week, then {1}.|{A} plans {0} and {1}.|A check by {R}
brought up {0} and {1}.|It is about {0} and about {1}.""",
        "test": """Yesterday {A} came across {0} next to {1}.|{R} wrote to us on account of {0}, later of {1}.|The
note by {A} describes {0} together with {1}.""",
    },
}

ASKS = {
    "extract": {
        "train": """List the obligations.|Extract the obligations.|Which duties stand in these sources?|Give me all
obligations as JSON.|Find every duty.|Who must do what, and by when?|Obligations, please.|Extract actor, action,
deadline and source.""",
        "test": "Return each obligation that you find.|Collect the duties below.|Read this and note all obligations.",
    },
    "summarise": {
        "train": """Summarise the sources.|Give a summary.|Summarise this in two sentences.|A short summary,
please.|What do these sources require, in short?|Sum up the rules.|Write two sentences on these sources.|Summary of
the sources?""",
        "test": "Shorten this to two sentences.|I need a brief summary of what follows.|Tell me the main points.",
    },
    "classify": {
        "train": """Classify the risk.|How risky is this?|Which risk tier is this case?|Rate the risk of the case.|
Risk, please.|Give the risk and the reason.|Is the risk low, medium or high?|Assess this case.""",
        "test": "Put this case into a risk tier.|Tell me the risk and why.|What risk level applies here?",
    },
}

# Words that name a tool's purpose (search, find, document, deadline, long, ticket) stand in both splits.
TOOL_ASKS = {
    "search_documents": {
        "train": """Find documents about {O}.|Search for {O}.|Find {O}.|Look up {O}, please search.|Search, I need
something on {O}.|Please find a policy on {O}.|Search the documents for {O}.|Where can I find rules about {O}?|Find
the rules for {O}.|Please search {O}.|Can you find a page about {O}?|Find me documents on {O}.""",
        "test": """Find out what covers {O}.|Could you search our library for {O}?|Search everything on {O} for me.|
I hope to find texts that deal with {O}.""",
    },
    "get_document": {
        "train": """Open document {i}.|Read document {i}.|What does document {i} say?|Show me document {i}.|Get the
text of document {i}.|Please open document {i} for me.|I want to read document {i}.|Quote document {i}.|What is in
document {i}?|Fetch document {i}.|Display document {i}, please.|What is written in document {i}?""",
        "test": """Bring up document {i} on the screen.|Tell me the content of document {i}.|Let me look into
document {i}.|Pull document {i}.""",
    },
    "get_deadline": {
        "train": """How long do we have for {O}?|What is the deadline for {O}?|By which deadline do we need {O}?|
Tell me the deadline for {O}.|When is the deadline of {O}?|How long is left for {O}?|Deadline for {O}?|How long can
we wait with {O}?|Until which deadline can I send {O}?|How long may {O} take?|Is there a deadline for {O}?|Check the
deadline of {O}.""",
        "test": """Which deadline applies to {O}?|Give me the deadline, it is about {O}.|How long may one work on
{O}?|The deadline that counts for {O}, please.""",
    },
    "create_ticket": {
        "train": """Open a {p} priority ticket about {O}.|Create a ticket with priority {p} on {O}.|Ticket, priority
{p}, for {O}.|Please open a ticket for {O}, priority {p}.|New {p} ticket on {O}.|Make a {p} priority ticket about
{O}.|Create a ticket for {O} with {p} priority.|Log a ticket about {O}. Priority: {p}.|I need a {p} priority ticket
for {O}.|Someone has to look at {O}, open a {p} ticket.|Raise a ticket: {O} ({p}).|Add a {p} ticket about {O}.""",
        "test": """File a ticket on {O} at {p} priority.|We have trouble with {O}: make it a ticket of {p}
priority.|Start a ticket, {p} urgency, for {O}.|Put down a {p} ticket about {O} for the team.""",
    },
}

SCOPE = {
    "train": """What is the weather in {x}?|Will it rain near {x} tomorrow?|Write a poem about {x}.|Tell me a joke
about {x}.|Sing a song about {x}.|Write a story with {x}.|Write Python code that draws {x}.|Fix my JavaScript for
{x}.|What is the best recipe for {x}?|How do I cook {x}?|Who won the match in {x}?|Who is the most famous singer of
{x}?|I have a headache after {x}, what should I take?|Is my cough from {x} dangerous?|Which pill helps against {x}?|
Recommend a film about {x}.|Which book on {x} should I read on holiday?|Plan a trip to {x} for {n} days.|Book a
flight to {x}.|Find a cheap hotel near {x}.|What is {n} times {n}?|Solve this riddle about {x}.|Translate {x} into
French.|How do you say {x} in Spanish?|Do you love {x}?|Are you alive?|How old are you?|What is the meaning of
life?|Tell me gossip about {x}.|Which celebrity is married to {x}?|Should I buy shares of {x}?|Will the price of {x}
go up?|Which lottery numbers will win?|Write a love letter with {x} in it.|What should I give my wife for her
birthday, {x}?|My boyfriend hates {x}, what now?|Draw me a picture of {x}.|Make a logo with {x}.|Explain how {x}
works to a child of {n}.|Who invented {x}?|When was {x} discovered?|What is the capital of {x}?|How far is the moon
from {x}?|Play chess with me.|Let us play a game about {x}.|Give me a workout for {n} minutes.|How do I lose {n}
kilos with {x}?|What is my horoscope today?|What does a dream about {x} mean?|Name my new cat after {x}.|How do I
train a dog to fetch {x}?|Who should I vote for?|What do you think of the president of {x}?|Write my essay on {x}
for school.|Do my homework about {x}.|Make up {n} names for a band.|Repair my bicycle, the {x} is loose.|Why does my
car sound like {x}?|How do I grow {x} in my garden?|Paint my kitchen like {x}.|Tell me a fun fact about {x}.|Write a
tweet about {x}.|Make me laugh.|Good night, tell me something about {x}.|Pretend to be {x}.|Talk like {x}.|What is
on television tonight?|Which song is number {n} in the charts?|Compare {x} with pizza.|Is {x} healthy?|How do I pick
a lock?|How do I build a bomb?|Rewrite this HTML table of {x}.|What time is it in {x}?|Say something nice about
{x}.|I am bored, entertain me with {x}.|Which phone takes the best photos of {x}?""",
    "test": """Compose a haiku featuring {x}.|Forecast for {x} this weekend?|Any good restaurants around {x}?|Show
me a C++ function to sort {x}.|My knee hurts since {x}, any advice?|Which football club comes from {x}?|Spin a fairy
tale of {x}.|Suggest a present for a fan of {x}.|Describe the taste of {x}.|How many legs has {x}?|Does {x} bring
luck?|Bake {x} with me step by step.|Who painted {x}?|I feel lonely, chat with me about {x}.|Crack a pun on {x}.|
Guess which number between 1 and {n} I picked.|Where do I park at {x}?|What colour suits {x}?|Rap about {x}.|Can
penguins swim to {x}?|Convert {n} miles to kilometres.|Should I marry {x}?|Spell {x} backwards.|Why is the sky blue
above {x}?|Invent a cocktail named {x}.""",
}

TOPICS = {
    "train": """Paris|Berlin|Tokyo|Brazil|Egypt|the sea|a dragon|cats|dogs|horses|football|tennis|chocolate|
pancakes|soup|pasta|rice|coffee|apples|roses|tulips|the moon|the sun|stars|rockets|dinosaurs|robots|pirates|a
princess|wizards|snow|summer|winter|my brother|my aunt|my neighbour|guitars|pianos|jazz|opera|movies|cartoons|
trains|boats|mountains|rivers|the flu|a cold|sleep|dreams|ghosts|gold|diamonds|fishing|skiing|dancing|yoga|tomatoes|
potatoes|bread|cheese|spiders""",
    "test": """Lisbon|Kenya|Norway|a unicorn|parrots|owls|turtles|basketball|golf|waffles|curry|honey|lemons|
orchids|volcanoes|comets|a knight|vampires|my cousin|drums|violins|ballet|lighthouses|deserts|islands|cricket|
surfing|mushrooms|butter|whales""",
}


@lru_cache(maxsize=128)
def listed(name: str, split: str) -> tuple[str, ...]:
    """The entries of a list of this module (``ASKS.extract``) or of the lexicon (``TRIGGERS``) for one split.

    The first have a list for each split; the second are divided by the hash of the entry. Training has more of both.
    """
    top, _, key = name.partition(".")
    test = split == "test"
    if (lists := globals().get(top)) is None:
        return (*part(words(getattr(lexicon, top)), split), *(() if test else written(split)["words"][top]))
    own = words((lists[key] if key else lists)["test" if test else "train"])
    return (*own, *(() if test else written(split)["tasks"][name]))
