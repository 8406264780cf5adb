"""Base forms of English words: singular, present tense, one spelling for British and American.

Only inflection is removed. A derived word keeps its ending, so that `organ` and `organization`,
`policy` and `police`, `general` and `generative` stay different words. The one exception is
`-ization`, which always names the action of the verb in `-ize`.
"""

from __future__ import annotations

import re
from typing import Final


def _set(words: str) -> frozenset[str]:
    return frozenset(words.split())


def _pairs(rows: str) -> dict[str, str]:
    """Parse `base form form; base form` into a dictionary from each form to its base."""
    groups = (row.split() for row in rows.split(";"))
    return {form: base for base, *forms in groups for form in forms}


# --- Plurals ------------------------------------------------------------------------------------

# Matched as whole words, and as the end of a compound after at least two letters: submatrices.
_PLURALS: Final = _pairs("""
analysis analyses; hypothesis hypotheses; axis axes; base basis bases; crisis crises; oasis
oases; emphasis emphases; thesis theses; testis testes; metastasis metastases; diagnosis
diagnoses; prognosis prognoses; neurosis neuroses; psychosis psychoses; thrombosis thromboses;
mitosis mitoses; meiosis meioses; symbiosis symbioses; metamorphosis metamorphoses; fibrosis
fibroses; sclerosis scleroses; necrosis necroses; stenosis stenoses; zoonosis zoonoses; mycosis
mycoses; anastomosis anastomoses; gnosis gnoses; sepsis sepses; synopsis synopses; praxis
praxes; lysis lyses; vertex vertices; vortex vortices; matrix matrices; index indices; appendix
appendices; cortex cortices; codex codices; helix helices; simplex simplices; apex apices;
cervix cervices; directrix directrices; radix radices; varix varices; calyx calyces; latex
latices; cicatrix cicatrices; vertix vertixes; phalanx phalanges; larynx larynges; pharynx
pharynges; meninx meninges; corpus corpora; genus genera; opus opuses; viscus viscera; femur
femora; foramen foramina; lumen lumina; stamen stamina; ulcus ulcera; tempus tempora; datum
data; medium media; bacterium bacteria; curriculum curricula; symposium symposia; consortium
consortia; equilibrium equilibria; minimum minima; maximum maxima; optimum optima; extremum
extrema; supremum suprema; infimum infima; spectrum spectra; quantum quanta; stratum strata;
erratum errata; memorandum memoranda; addendum addenda; momentum momenta; continuum continua;
vacuum vacua; millennium millennia; aquarium aquaria; compendium compendia; mitochondrium
mitochondrion mitochondria; cranium crania; atrium atria; cilium cilia; flagellum flagella;
septum septa; cerebellum cerebella; ovum ova; serum sera; phylum phyla; desideratum desiderata;
candelabrum candelabra; sanatorium sanatoria; emporium emporia; moratorium moratoria; stadium
stadia; gymnasium gymnasia; referendum referenda; forum fora; colloquium colloquia; honorarium
honoraria; planetarium planetaria; solarium solaria; endometrium endometria; myocardium
myocardia; epithelium epithelia; endothelium endothelia; ischium ischia; ileum ilea; labium
labia; ostium ostia; sternum sterna; operculum opercula; diverticulum diverticula; reticulum
reticula; vinculum vincula; speculum specula; capitulum capitula; sporangium sporangia; mycelium
mycelia; hymenium hymenia; plasmodium plasmodia; criterion criteria; phenomenon phenomena;
automaton automata; polyhedron polyhedra; tetrahedron tetrahedra; octahedron octahedra;
dodecahedron dodecahedra; icosahedron icosahedra; ganglion ganglia; taxon taxa; protozoon
protozoa protozoan; noumenon noumena; hapax hapaxes; organon organa; spermatozoon spermatozoa;
peridinium peridinia; parhelion parhelia; aphelion aphelia; perihelion perihelia; oxymoron
oxymora; prolegomenon prolegomena; stimulus stimuli; nucleus nuclei; locus loci; focus foci;
radius radii; fungus fungi; cactus cacti; alumnus alumni; syllabus syllabi; bacillus bacilli;
calculus calculi; gyrus gyri; sulcus sulci; villus villi; embolus emboli; thrombus thrombi;
torus tori; modulus moduli; annulus annuli; rhombus rhombi; uterus uteri; thalamus thalami;
cumulus cumuli; genius genii; hippocampus hippocampi; bronchus bronchi; meniscus menisci;
nodulus noduli; tumulus tumuli; terminus termini; abacus abaci; humerus humeri; esophagus
esophagi; colossus colossi; incubus incubi; magus magi; nimbus nimbi; papyrus papyri; stylus
styli; strobilus strobili; thallus thalli; thymus thymi; fundus fundi; glomerulus glomeruli;
tubulus tubuli; ramus rami; coccus cocci; lactobacillus lactobacilli; streptococcus
streptococci; anulus anuli; staphylococcus staphylococci; pneumococcus pneumococci; enterococcus
enterococci; mouse mice; dormouse dormice; louse lice; goose geese; foot feet; tooth teeth; ox
oxen; child children; person people persons; woman women; penny pence; brother brethren; leaf
leaves; half halves; wolf wolves; knife knives; calf calves; shelf shelves; thief thieves; loaf
loaves; life lives; wife wives; self selves; elf elves; scarf scarves; hoof hooves; wharf
wharves; sheaf sheaves; dwarf dwarves; gas gases gasses; bias biases biasses; lens lenses; atlas
atlases; canvas canvases; alias aliases; pancreas pancreases; bus buses busses; iris irises;
pelvis pelvises; trellis trellises; summons summonses; quiz quizzes; waltz waltzes; blitz
blitzes; quartz quartzes; whiz whizzes; portmanteau portmanteaus portmanteaux; bureau bureaux
bureaus; plateau plateaux plateaus; tableau tableaux tableaus; chateau chateaux; beau beaux;
adieu adieux; milieu milieux milieus; cherub cherubim; seraph seraphim; kibbutz kibbutzim;
graffito graffiti; paparazzo paparazzi; virtuoso virtuosi; libretto libretti; concerto concerti;
cache caches; niche niches; ache aches; psyche psyches; cliche cliches; creche creches;
avalanche avalanches; pastiche pastiches; quiche quiches; moustache moustaches mustache
mustaches; menu menus; guru gurus; emu emus; gnu gnus; tofu tofus; cpu cpus; gpu gpus; tpu tpus;
npu npus; ipu ipus; dpu dpus; apu apus; fpu fpus; imu imus; rnu rnus; gru grus; tau taus; tutu
tutus; api apis; ski skis; taxi taxis; alibi alibis; safari safaris; bikini bikinis; tsunami
tsunamis; emoji emojis; wiki wikis; rabbi rabbis; kiwi kiwis; yeti yetis; psi psis; phi phis;
chi chis; pi pis; xi xis; corgi corgis; khaki khakis; salami salamis; sari saris; gui guis; cli
clis; hadith hadiths; talus tali; tarsus tarsi; carpus carpi; ictus ictuses; use uses; reuse
reuses; move moves; glove gloves; house houses; spouse spouses; blouse blouses; clause clauses;
cause causes; pause pauses; abuse abuses; excuse excuses; fuse fuses; muse muses; recluse
recluses; defuse defuses; diffuse diffuses; infuse infuses; confuse confuses; refuse refuses;
amuse amuses; accuse accuses; misuse misuses; disuse disuses; peruse peruses; arouse arouses;
rouse rouses; douse douses; browse browses; transfuse transfuses; perfuse perfuses; applause
applauses; menopause menopauses; cheese cheeses; geese geeses; obese obeses; manganese
manganeses; shoe shoes; toe toes; foe foes; canoe canoes; oboe oboes
""")
_ENDINGS: Final = tuple(form for form in _PLURALS if len(form) >= 5)
_LATIN: Final = re.compile(r"(?<=..)(?:ae|mata|eses|iases|yses|ives|eaux)$")
_UNCHANGED: Final = _set("""
series species news always perhaps across towards afterwards whereas overseas thus plus minus
versus gps dns sms css rss tls ssl cms ats ems lms dss pos ros ios aws gis ais his bss pbs abs
rms mvs dps fps bps tps rps hps cvs ics sds vps xps lhs rhs ids this its was has yes mrs dis les
des las los das bis cis os is as us https cmos saas paas iaas faas macos kudos chaos cosmos
ethos pathos rhinoceros asbestos thermos texas kansas arkansas dallas christmas pajamas pyjamas
hamas judas douglas atlas gas bias canvas alias pancreas lens alps mars corps means paris athens
semen specimen regimen abdomen acumen omen lumen ramen hymen stamen bitumen albumen foramen amen
women men laos lagos barbados carlos chess less unless gross kinetics
""")
_SHORT_PLURAL: Final = re.compile(r"[aeiou][^aeiouy]s|[^aeiouy]{2}s")  # ads, tvs; not gas
# A word in -ics names a field and is kept, except these, which are plurals.
_ICS: Final = _set("""
topic metric critic clinic fabric heuristic characteristic mimic antibiotic mosaic plastic
narcotic cosmetic relic tunic panic academic public republic epidemic pandemic comic lyric
statistic attic skeptic sceptic probiotic prebiotic antiseptic anesthetic anaesthetic diuretic
tonic biologic antic cubic conic quartic quintic quadric ceramic demographic infographic logic
neurotic diabetic alcoholic eccentric isometric picnic cleric heretic medic
""")


def _singular(word: str) -> str:
    """Return the singular of a noun or the plain form of a verb in -s; other words unchanged."""
    if (known := _irregular(word)) is not None:
        return known
    if word.endswith("men") and word not in _UNCHANGED and len(word) > 4 and word[-4] in "stkdrewy":
        return word[:-2] + "an"
    if not word.endswith("s"):
        return _LATIN.sub(_latin, word) if word.endswith(("ae", "mata", "eaux")) else word
    if word in _UNCHANGED or word.endswith(("ss", "us", "is", "'s")) or len(word) < 3:
        return word
    if word.endswith("ics"):
        return word[:-1] if word[:-1] in _ICS else word
    if word.endswith("ies"):
        return word[:-3] + "y" if len(word) > 4 else word[:-1]
    if word.endswith(("eses", "yses", "iases")) and not word.endswith("eeses"):
        return _LATIN.sub(_latin, word)
    if word.endswith(("sses", "ches", "shes", "xes", "zzes", "tzes", "oes")):
        return word[:-2]
    if word.endswith("uses"):  # viruses; words in -use are in _PLURALS
        return word[:-2]
    if len(word) == 3 and not _SHORT_PLURAL.match(word):
        return word
    return word[:-1]


def _irregular(word: str) -> str | None:
    found = _PLURALS.get(word)
    if found is None and word.endswith(_ENDINGS):
        for cut in range(2, len(word) - 4):
            if base := _PLURALS.get(word[cut:]):
                return word[:cut] + base
    return found


def _latin(match: re.Match[str]) -> str:
    return {"ae": "a", "mata": "ma", "eses": "esis", "yses": "ysis", "iases": "ias",
            "eaux": "eau"}[match.group()]  # fmt: skip


# --- Verbs --------------------------------------------------------------------------------------

_PAST: Final = _pairs("""
learn learnt; burn burnt; spell spelt; dream dreamt; leap leapt; spoil spoilt; agree agreed;
disagree disagreed; free freed; guarantee guaranteed; referee refereed; decree decreed; focus
focussed focused focussing focusing focusses focuses; bias biassed biased biassing biasing; dye
dyed; tie tied tying; die died dying; lie lied lying; mimic mimicked mimicking; traffic
trafficked trafficking; panic panicked; picnic picnicking; unite united uniting; dial dialling
dialing dialled dialed
""")
# Nouns, adjectives and names that only look like a verb form.
_NO_VERB: Final = _set("""
thing king ring sing wing sling sting string spring swing bring cling fling ping ding ling ming
ting being during morning evening ceiling sibling herring earring offspring something anything
everything nothing darling sterling inkling wedding pudding lightning lemming duckling shilling
beijing nanjing viking bering earthling seedling gosling dumpling starling sapling bed red fed
led shed sled ned zed wed need seed feed weed deed heed speed breed bleed creed greed steed
tweed reed exceed proceed succeed indeed embed hundred kindred sacred naked wicked rugged hatred
biped moped infrared watershed newsfeed ted fred exiting synthesis clothing based marketing
accounting banking bearing housing meeting building hearing rating timing lighting fasting
lasting racing according outstanding interesting accordingly
""")
_VOWEL: Final = re.compile(r"[aeiouy]")
_DOUBLED: Final = re.compile(r"([bdfgkmnprtvz])\1$")
_DOUBLE: Final = _set("""
add egg odd ebb err inn butt mitt watt purr buff bluff cuff stuff puff sniff staff staffed off
buzz fizz fuzz jazz scoff sheriff tariff rebuff handcuff whirr boycott
""")
# Stems (words without -ed or -ing) that match `_E`, although the verb does not end in -e.
_NO_E: Final = _set("""
treat heat repeat eat cheat beat seat float coat format combat chat sweat threat defeat boat
monitor factor color favor author mirror error sponsor anchor tailor labor neighbor harbor honor
vector doctor minor major tutor mentor humor vapor rumor door floor flavor poor moor tensor
behavior limit edit exhibit inherit visit exploit audit credit deposit orbit profit benefit
merit inhibit prohibit solicit elicit await wait bait transit submit permit commit admit emit
omit split fit hit wit vomit recruit suit circuit habit cohabit forfeit posit implicit discredit
accredit delimit develop envelop gallop scallop wallop loop stoop troop hoop scoop cooperat
droop swoop offer filter cluster gather register ring bring hang sing string swing cling fling
sting long belong wrong wing ping among prong signal total equal label model travel level
channel tunnel fuel cancel focus bias alias canvas census bus gas lens rival pivot exit sync
synth posit prompt listen happen open strengthen program diagram custom bottom blossom fathom
ransom
""")
_E: Final = re.compile(
    r"""(?: [cuvz] | (?<![s])s | dg | (?<![aeiouwn])g | [aeiou]g | ng | [bcdfgkptz]l | y[lp]
      | (?<![eo])at | creat | ineat | meat | [tv]r | (?<![aeiou])[iuo]t | ut | (?:pl|l|mp|cr)et
      | [^o]ot
      | (?<![aeiou])ir | quir | (?<!o)ur | (?<![eio])ar | (?:pl|st|sc|sh|sn|[bdcg]h?|gn)or
      | (?<![aeo])in | (?<![aeiou])im | [tslu]um | dher | terfer
      | (?<![eo])ad | (?<![ao])id | (?<!o)ud | (?<![eo])od | [cp][eo]d | mped
      | (?<![eo])a[pk] | [^aeiou]ip | [^aeiouls]op | (?<![aeiou])il | (?<![aeo])al
      | [^aeo]ol | [hdr]ul | (?<![aeiou])ik | [vmjr]ok | [aeiou]b | [^aeiou]am | [tr]un
      | (?:[cz]l|z|ph|tp)on | rven | breath | bath | cloth | (?:^|[^e])[twp]ast | [bc]om | uk
      | cach
    )$""",
    re.X,
)


def _plain_verb(word: str) -> str:
    """Return the verb of a form in -ed or -ing; other words unchanged."""
    if word in _PAST:
        return _PAST[word]
    if word in _NO_VERB:
        return word
    if word.endswith("ied") and len(word) > 4:
        return word[:-3] + "y"
    if word.endswith("eed"):  # exceed, feed
        return word
    for ending in ("ing", "ed"):
        if word.endswith(ending):
            stem = word[: -len(ending)]
            return _restored(stem) if len(stem) > 1 and _VOWEL.search(stem) else word
    return word


def _restored(stem: str) -> str:
    """Return the verb of a stem without -ed or -ing: restore an -e, or undo a doubled letter."""
    if stem in _DOUBLE or stem.endswith(("ss", "zz", "ll", "ff")):
        return stem
    if _DOUBLED.search(stem):
        return stem[:-1]
    if len(stem) == 2 and stem not in {"go", "do"}:
        return stem + "e" if stem[1] not in "aeiouwxy" else stem
    takes_e = _E.search(stem) and not _ends_like(stem, _NO_E)
    return stem + "e" if takes_e else stem


def _ends_like(stem: str, known: frozenset[str]) -> bool:
    """Return whether `stem` is known, alone or after a prefix: overload, re-edit."""
    return stem in known or _PREFIX.sub("", stem) in known


# --- Spelling -----------------------------------------------------------------------------------

_PREFIX: Final = re.compile(
    r"^(?:re|un|over|under|out|up|down|mis|pre|post|de|off|sub|inter|co|fore)"
)
_VERB_IN_ISE: Final = _set("""
exercise precise concise promise premise compromise comprise surprise enterprise expertise
advise revise supervise televise improvise devise advertise arise rise sunrise uprise otherwise
likewise wise treatise paradise franchise enfranchise merchandise demise excise incise
circumcise exorcise chastise despise reprise apprise chemise cerise vise anise reprise misadvise
unwise previse comprise emprise highrise prise mortise rerise demise imprecise
""")
_OUR: Final = re.compile(
    r"((?:^|dis|mis|un|multi|bi|uni|tri)col|behavi|fav|flav|hon|hum|lab|neighb|rum|tum|vap|vig|od"
    r"|harb|arm|glam|rig|savi|sav|splend|endeav|ferv|cand|clam|ard|demean|parl|ranc|val|succ|arb|enam"
    r"|misdemean|tut)our(?=$|s|al|ab|ed|i[nt]|ful|hood|ly|less|er|i[sz]|ant|ation)"
)
_RE: Final = re.compile(
    r"(cent|theat|spect|lust|meag|somb|goit|mit|och|lit|tit|calib|sab|fib|luck|sepulch|accout"
    r"|manoeuv|maneuv|(?:^|centi|milli|kilo|nano|micro|deci|peri|dia|para)met)re(?=$|board|glass)"
)
_OGUE: Final = re.compile(r"(?<=...)(?<!synag)ogue$")
_ENCE: Final = re.compile(r"(def|off|lic|pret)ence$")
# Parts of words, replaced at any place in a word.
_PART_NOW: Final = _pairs("""
hem haem; emi aemi; ped paed; gynec gynaec; anesth anaesth; estr oestr; edem oedem; fet foet;
esoph oesoph; rrhe rrhoe; pne pnoe; fec faec; cesi caesi; cesar caesar; pale palae; archeo
archaeo; mediev mediaev; etiol aetiol; esthet aesthet; ameb amoeb; celiac coeliac; homeo homoeo;
leuko leuco; cec caec; maneuv manoeuv; nev naev; enol oenol; sulf sulph; aluminum aluminium;
artifact artefact; plow plough; skeptic sceptic; draft draught; molder moulder; program
programme; gray grey; encycloped encyclopaed; celom coelom; airplane aeroplane; ectemia
ectaemia; glycem glycaem; urem uraem; ischem ischaem; hemat haemat; levo laevo; prec praec;
subpen subpoen; nection nexion; flection flexion; tranquil tranquill; traveler traveller;
modeler modeller; labeler labeller; counselor counsellor; jewel jewell; marvelous marvellous;
woolen woollen; channeler channeller; signaler signaller; fueler fueller; leveler leveller;
councilor councillor; tunneler tunneller; canceler canceller; calk caulk; sizabl sizeabl; likabl
likeabl; movabl moveabl; usabl useabl; salabl saleabl; ratabl rateabl; livabl liveabl; lovabl
loveabl; namabl nameabl; tunabl tuneabl; scalabl scaleabl; tradabl tradeabl; sharabl shareabl;
gment gement; fantasy phantasy; gram gramme; yogurt yoghurt; ecolog oecolog; pajama pyjama;
skillful skilful; willful wilful; orient orientat
""")
_WORDS: Final = _pairs("""
mold mould; molt moult; smolder smoulder; tire tyre; cozy cosy; curb kerb; check cheque;
mustache moustache; whiskey whisky; gage gauge; practice practise; disk disc; adapter adaptor;
adviser advisor; inquiry enquiry; inquire enquire; impostor imposter; math maths; mom mum;
cipher cypher; siphon syphon; mollusk mollusc; omelet omelette; jewelry jewellery; neuron
neurone; gelatin gelatine; glycerin glycerine; caliper calliper; ax axe; chili chilli;
carburetor carburettor carburetter; specialty speciality; annex annexe; judgment judgement;
catalog catalogue; analog analogue; fulfill fulfil; enroll enrol; instill instil; distill
distil; installment instalment; enrollment enrolment; fulfillment fulfilment; appall appal;
licorice liquorice; peddler pedlar; furor furore; toward towards; plow plough; pediatric
paediatric; skillful skilful; willful wilful; reflection reflexion; connection connexion;
medieval mediaeval; behavior behaviour; defense defence; esthetic aesthetic; sulfate sulphate;
carat karat; racket racquet; donut doughnut; dependent dependant; artifact artefact; grueling
gruelling; unequaled unequalled; unparalleled unparallelled; pajama pyjama; routing routeing;
collectible collectable; bisulfite bisulphite; naught nought; aluminum aluminium
""")
_PART: Final = re.compile("|".join(_PART_NOW))


def _american(word: str) -> str:
    """Return one spelling for a word that has a British and an American one."""
    word = _WORDS.get(word, word)
    word = _PART.sub(lambda found: _PART_NOW[found.group()], word)
    if "our" in word:
        word = _OUR.sub(r"\1or", word)
    if "is" in word:
        word = _ized(word)
    if "re" in word:
        word = _RE.sub(r"\1er", word)
    if "lys" in word:
        word = _LYSE.sub("lyz", word)
    word = _ENCE.sub(r"\1ense", _OGUE.sub("og", word))
    if word.endswith("ll") and _LONG_LL.search(word):
        word = word[:-1]
    return word


_LYSE: Final = re.compile(r"lys(?=e$|er|able)")
_LONG_LL: Final = re.compile(r"[aeiouy][^aeiouy]+[aeiouy]+ll$|(?<!q)[iu][ae]ll$")
_ISE: Final = re.compile(r"(?<=[^aeiou])is(?=e$|ers?$|able$|ation)")


def _ized(word: str) -> str:
    found = _ISE.search(word)
    if found is None or len(word) < 6 or word.endswith("wise"):
        return word
    before = word[: found.start()]
    return word if f"{before}ise" in _VERB_IN_ISE else f"{before}iz{word[found.end() :]}"


# --- Base form ----------------------------------------------------------------------------------


def base(word: str) -> str:
    """Return the base form of a word in lower-case ASCII letters.

    The result need not be an English word: use it only to compare it with another base form.
    """
    plain = _plain_verb(_singular(word))
    if plain.endswith("ie") and len(plain) > 3:
        plain = plain[:-2] + "y"  # movies, queries
    plain = _american(plain)
    if plain.endswith("ization"):
        plain = plain[:-5] + "e"
    return plain


# --- Names of a field ---------------------------------------------------------------------------

# Adjectives and nouns that name one field or thing in any text. Adjectives with other senses are
# left out: optical flow is not optics, and a causal model, a statistical test, a geometric prior, a
# genetic algorithm or the cognitive load are not about the field of the noun.
_FIELDS: Final = """
medical medicine; molecular molecule; mathematical mathematics math; robotic robotics robot;
chemical chemistry; biological biology; psychological psychology; epidemiological epidemiology;
agricultural agriculture; educational education; financial finance; musical music;
astronomical astronomy; radiological radiology
"""


def _relatives() -> dict[str, tuple[str, ...]]:
    groups = (tuple(dict.fromkeys(map(base, row.split()))) for row in _FIELDS.split(";"))
    return {
        one: tuple(other for other in group if other != one) for group in groups for one in group
    }


_RELATIVES: Final = _relatives()


def relatives(word: str) -> tuple[str, ...]:
    """Return the other words for the field that a base form names: `medicine` for `medical`."""
    return _RELATIVES.get(word, ())
