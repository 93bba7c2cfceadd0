"""What every metric is, once: read by the evaluation, the report and the README."""

from collections.abc import Mapping
from dataclasses import dataclass

import polars as pl

from crslib.dialogue.utterances import RECOMMENDER, USER
from crslib.metrics.diversity import BUDGET, DRAWS, SAMPLE
from crslib.metrics.embedding import COMPONENTS
from crslib.metrics.leakage import FUZZY
from crslib.metrics.recommendation import CUTOFFS


@dataclass(frozen=True)
class Metric:
    """`direction`: higher or lower is better, human (nearer to people is better), or none (a description)."""

    name: str
    family: str
    title: str
    unit: str
    direction: str
    definition: str
    source: str = ""


_WORD = "Words are runs of letters and digits with inner apostrophes, titles and years included."
_ROLES = (USER, RECOMMENDER)
_KS = (
    "largest difference of the two distribution functions (Kolmogorov–Smirnov)",
    "Massey, The Kolmogorov–Smirnov Test for Goodness of Fit, JASA 1951",
)
_WASSERSTEIN = (
    "area between the two distribution functions (first Wasserstein distance)",
    "Ramdas et al., On Wasserstein Two-Sample Testing and Related Families, Entropy 2017",
)
_FLOOR = (
    "Observations of all dialogues pooled; people: mean over 200 draws of as many human dialogues (at most half) "
    "against the rest; floor: their 95 % quantile."
)
_EMBEDDED = (
    "the mean state of its tokens, titles masked, in the built-in model, each dimension in people's standard "
    "deviations from people's mean"
)
_MARGINALS = {
    "user_words": ("words per user turn", "words"),
    "recommender_words": ("words per recommender turn", "words"),
    "turns": ("turns per dialogue", "turns"),
    "user_items": ("items per user turn", "items"),
    "recommender_items": ("items per recommender turn", "items"),
}
_READ = {
    "words": ("after the user's words", "the user's utterances alone"),
    "attributes": ("after its attributes", "the target attributes alone"),
    "nothing": ("after nothing", "nothing: by popularity"),
}
_GUESSED = (
    "What the user links has no place; a target that it names before the recommender has the first one by the words, "
    "one that it names after the recommender is left out."
)
_GUESSWORK = "Massey, Guessing and Entropy, ISIT 1994"
_NOTES = {
    "seen_liked": "seen and liked",
    "seen_disliked": "seen and disliked",
    "unseen_interested": "not seen, interested",
    "unseen_uninterested": "not seen, not interested",
}


def _leakage() -> list[Metric]:
    family = "leakage"
    return [
        Metric(
            "leaked_titles",
            family,
            "User prompts with a hidden title",
            "prompts",
            "lower",
            "Number of user prompts that name a held-out item before anyone said it; every prompt is read.",
        ),
        Metric(
            "leaked_profiles",
            family,
            "Recommender prompts with private text",
            "prompts",
            "lower",
            "Number of recommender prompts with a sentence of the summary, the attributes, their headings or a private "
            "note, beyond what was said aloud; every prompt is read.",
        ),
        Metric(
            "target_named_by_user",
            family,
            "User names a target first",
            "share",
            "lower",
            "Share of dialogues in which the user names a held-out liked item before the recommender does: by a link, "
            f"or by a run of words with a rapidfuzz ratio ≥ {FUZZY} to its title and the same numbers (titles of one "
            "short word: with the year). People: items the seeker liked that by the form the recommender suggested.",
        ),
        Metric(
            "first_turn_hits",
            family,
            "Hits in the recommender's first turn",
            "share",
            "none",
            "Share of dialogues whose first recommender turn names a held-out liked item: a recommender that is told "
            "the target has many.",
        ),
        Metric(
            "k_anonymity",
            family,
            "Items that match the target attributes (median)",
            "items",
            "higher",
            "Median over dialogues of the number of catalogue items that have all target attributes.",
            "Sweeney, k-anonymity, 2002",
        ),
        Metric(
            "k_anonymity_min",
            family,
            "Items that match the target attributes (least)",
            "items",
            "higher",
            "Least number, over dialogues, of catalogue items that have all target attributes.",
            "Sweeney, k-anonymity, 2002",
        ),
        *(
            Metric(
                f"guesswork_{what}",
                family,
                f"Guesses to a hidden item: {title}",
                "bits",
                "none",
                "Mean over dialogues of the mean log₂ place of the held-out liked items in the catalogue, ranked by "
                f"the item prior after {read}. {_GUESSED}",
                _GUESSWORK,
            )
            for what, (title, read) in _READ.items()
        ),
        Metric(
            "guesswork_saved",
            family,
            "Guesses that the user's words save over its attributes",
            "bits saved",
            "none",
            "Mean over dialogues of guesswork_attributes − guesswork_words: above 0 the words say more of the hidden "
            "items than the target attributes do.",
            _GUESSWORK,
        ),
    ]


def _recommendation() -> list[Metric]:
    family = "recommendation"
    listed = "distinct items the recommender names, in order, without those the user named before"
    return [
        *(
            Metric(
                f"recall_at_{n}",
                family,
                f"Recall@{n} of held-out liked items",
                "share",
                "higher",
                f"Mean over dialogues of |first {n} of L ∩ T| / |T|; L, the recommended items: {listed}, unknown "
                "titles taking a rank; T: the profile's held-out liked items.",
                "Herlocker et al., Evaluating Collaborative Filtering Recommender Systems, TOIS 2004",
            )
            for n in CUTOFFS
        ),
        Metric(
            "hits",
            family,
            "Dialogues with a hit",
            "share",
            "higher",
            "Share of dialogues in which the recommender names at least one held-out liked item that the user had not "
            "named.",
        ),
        Metric(
            "attribute_match",
            family,
            "Attribute match of recommendations",
            "share",
            "higher",
            "Mean over recommended catalogue items of the share of target attributes (each genre, decade, actor, "
            "director) they have; attributes unknown for an item are left out.",
        ),
        Metric(
            "preference_coverage",
            family,
            "Preferred genres offered",
            "share",
            "higher",
            "Mean over dialogues of the share of the profile's liked genres that some recommended item has.",
        ),
        Metric(
            "acceptance",
            family,
            "Recommendations welcomed in words",
            "share",
            "human",
            "Of the items on which the user's next turn says good or bad (patterns), the share with a good word.",
        ),
        Metric(
            "repeats",
            family,
            "Recommender repeats an item",
            "share",
            "lower",
            "Share of the recommender's item mentions whose item it had named in an earlier turn.",
        ),
        *(
            Metric(
                f"{role}_validity",
                family,
                f"Titles that exist, {role}",
                "share",
                "higher",
                f"Share of the {role}'s [[…]] mentions that are items of the catalogue.",
            )
            for role in _ROLES
        ),
        Metric(
            "coverage",
            family,
            "Catalogue recommended",
            "share",
            "higher",
            "Share of all catalogue items that were recommended at least once in the run; grows with its size.",
        ),
        Metric(
            "gini",
            family,
            "Concentration of recommendations (Gini)",
            "index",
            "human",
            "Gini coefficient of the recommendation counts of the items recommended at least once: 0 all alike. "
            "People: at the same number of dialogues.",
            "Fleder and Hosanagar, Blockbuster Culture's Next Rise or Fall, Management Science 2009",
        ),
    ]


def _realism() -> list[Metric]:
    family = "realism"
    means = [
        *(
            Metric(
                f"{role}_words",
                family,
                f"Words per {role} turn",
                "words",
                "human",
                f"Σ words / Σ {role} turns. {_WORD}",
            )
            for role in _ROLES
        ),
        Metric(
            "turns",
            family,
            "Turns per dialogue",
            "turns",
            "human",
            "Mean number of turns of both parties over dialogues that have any; a turn without text is none.",
        ),
        Metric(
            "recommender_opens",
            family,
            "Recommender speaks first",
            "share",
            "human",
            "Share of dialogues whose first turn is the recommender's.",
        ),
        *(
            Metric(
                f"{role}_questions",
                family,
                f"Questions, {role}",
                "share",
                "human",
                f"Share of the {role}'s turns with a question mark.",
            )
            for role in _ROLES
        ),
        *(
            Metric(
                f"{role}_items",
                family,
                f"Items per {role} turn",
                "items",
                "human",
                f"Σ item mentions / Σ {role} turns.",
            )
            for role in _ROLES
        ),
        Metric(
            "liked_share",
            family,
            "Recommendations liked by the notes",
            "share",
            "human",
            "Of the items named by the recommender (each once a turn) on which the user's note has an opinion, the "
            "share liked or, if not seen, of interest.",
        ),
    ]
    distances = [
        Metric(
            f"{marginal}_{name}",
            family,
            f"{title[0].upper()}{title[1:]}: {short}",
            "distance" if name == "ks" else unit,
            "lower",
            f"{text[0].upper()}{text[1:]} of {title}, run against people. {_FLOOR}",
            source,
        )
        for marginal, (title, unit) in _MARGINALS.items()
        for name, short, text, source in (("ks", "KS", *_KS), ("wasserstein", "Wasserstein", *_WASSERSTEIN))
    ]
    return means + distances + _acts(family) + _words_of_people()


def _acts(family: str) -> list[Metric]:
    grams = {
        "act": ("Dialogue acts", "acts; each turn weighs 1, parted evenly among its acts"),
        "act_bigram": (
            "Dialogue acts in a row",
            "pairs of an act and an act of the next turn; each two turns weigh 1, parted evenly among their pairs",
        ),
    }
    scopes = {"": "both parties, role and act together", **{role: f"{role} turns" for role in _ROLES}}
    return [
        Metric(
            f"{role}_{name}_divergence".removeprefix("_"),
            family,
            f"{title}, {role or 'both'}: Jensen–Shannon",
            "bits",
            "lower",
            f"Jensen–Shannon divergence (base 2) of the distributions of {text}; of {scope}"
            f"{' (the second of the two)' if role and name != 'act' else ''}, run against people. Acts: 12 of users, 6 "
            f"of recommenders, read on both sides by the tagger of data/acts; how right it is stands there. {_FLOOR}",
            "acts: Cai and Chen, UMAP 2020; divergence: Lin, IEEE Transactions on Information Theory 1991",
        )
        for name, (title, text) in grams.items()
        for role, scope in scopes.items()
    ]


def _words_of_people() -> list[Metric]:
    family = "realism"
    seen = {
        "two_sample": ("by its words", "words, pairs of words and marks, titles masked", "lower"),
        "two_sample_length": ("by its length alone", "the number of words alone: a control", "none"),
    }
    return [
        *(
            Metric(
                f"{role}_{name}",
                family,
                f"A classifier tells the {role}'s turns from people's {title}",
                "share",
                direction,
                f"Accuracy, mean of both sides, of a logistic regression on {text}, on turns of dialogues that it "
                "has not learnt from, as many dialogues of people as of the run; 0.5: it cannot. People: one half of "
                "ReDial's test dialogues against the other; floor: the upper end of its interval.",
                "Lopez-Paz and Oquab, Revisiting Classifier Two-Sample Tests, ICLR 2017",
            )
            for role in _ROLES
            for name, (title, text, direction) in seen.items()
        ),
        *(
            Metric(
                f"{role}_frechet",
                family,
                f"Fréchet distance of the {role}'s turns",
                "variances",
                "lower",
                f"|m₁ − m₂|² + Tr(C₁ + C₂ − 2 (C₁ C₂)^½) of the {role}'s turns, run against people, as a share of "
                f"people's variance, on people's first {COMPONENTS} principal components; a turn is {_EMBEDDED}. Grows "
                "as turns get fewer. People: mean over 200 draws of as many human dialogues (at most half) against the "
                "rest; floor: their 95 % quantile.",
                "Heusel et al., GANs Trained by a Two Time-Scale Update Rule, NeurIPS 2017",
            )
            for role in _ROLES
        ),
        *(
            Metric(
                f"{role}_cross_entropy",
                family,
                f"Surprise of the {role}'s words to a model of people",
                "nats",
                "human",
                f"Mean −log P of the {role}'s words and ends of turns, titles masked, under trigrams of ReDial's "
                "training dialogues (Kneser–Ney); its exponential is the perplexity. People: ReDial's test dialogues. "
                "Below people: commonplaces; above: other words.",
                "Kneser and Ney, Improved Backing-Off for M-gram Language Modeling, ICASSP 1995",
            )
            for role in _ROLES
        ),
        *(
            Metric(
                f"{role}_people_cross_entropy",
                family,
                f"Surprise of people's words to the {role} model",
                "nats",
                "lower",
                f"Mean −log P of the tokens of human {role}s in ReDial's test dialogues under the run's own {role} "
                "model, prompted as in the run; its exponential is the perplexity. Comparable between models of one "
                "tokenizer.",
            )
            for role in _ROLES
        ),
    ]


def _diversity() -> list[Metric]:
    family = "diversity"
    return [
        *(
            Metric(
                f"{role}_distinct_{n}",
                family,
                f"Distinct-{n}, {role}",
                "share",
                "higher",
                f"Different {n}-grams / all {n}-grams in {BUDGET} words of the {role}, whole dialogues in random "
                f"order, mean of {DRAWS} orders; n-grams within utterances.",
                "Li et al., A Diversity-Promoting Objective Function for Neural Conversation Models, NAACL 2016",
            )
            for role in _ROLES
            for n in (1, 2, 3)
        ),
        *(
            Metric(
                f"{role}_self_bleu",
                family,
                f"Self-BLEU, {role}",
                "share",
                "lower",
                f"Mean BLEU-4 (sacrebleu) of each of {SAMPLE} utterances, one each of {SAMPLE} random dialogues, "
                f"against the others; mean of {DRAWS} samples.",
                "Zhu et al., Texygen, SIGIR 2018",
            )
            for role in _ROLES
        ),
        *(
            Metric(
                f"{role}_duplicates",
                family,
                f"Utterances also said in another dialogue, {role}",
                "share",
                "lower",
                f"Share of the {role}'s utterances whose words are, one for one, its utterance in another dialogue "
                "too. People: at the same number of dialogues.",
            )
            for role in _ROLES
        ),
        *(
            Metric(
                f"{role}_loops",
                family,
                f"Utterances said before in the dialogue, {role}",
                "share",
                "lower",
                f"Share of the {role}'s utterances that it said, word for word, earlier in the same dialogue.",
            )
            for role in _ROLES
        ),
        *(
            Metric(
                f"{role}_vendi",
                family,
                f"Different turns among {SAMPLE}, {role} (Vendi)",
                "turns",
                "higher",
                f"exp of the entropy of the eigenvalues of K/n, K the cosines of {SAMPLE} turns, one each of {SAMPLE} "
                f"random dialogues; mean of {DRAWS} samples; a turn is {_EMBEDDED}.",
                "Friedman and Dieng, The Vendi Score, TMLR 2023",
            )
            for role in _ROLES
        ),
        Metric(
            "item_entropy",
            family,
            "Entropy of recommended items",
            "bits",
            "higher",
            "−Σ p log₂ p over the catalogue items recommended, each once a dialogue. People: at the same number of "
            "dialogues.",
        ),
    ]


def _consistency() -> list[Metric]:
    family = "consistency"
    return [
        Metric(
            "reaction_consistency",
            family,
            "Reaction agrees with the private note",
            "share",
            "higher",
            "Of the items where both the note and the user's words (patterns) say something of having seen or of "
            "liking it, the share in which they agree in all both speak of. People: words against their own form.",
        ),
        Metric(
            "reactions_decidable",
            family,
            "Reactions that can be decided",
            "share",
            "none",
            "Share of the items with a note to which the user's words say something the note speaks of.",
        ),
        *(
            Metric(
                f"consistency_{kind}",
                family,
                f"Agrees with the note: {title}",
                "share",
                "higher",
                f"Agreement of reaction and note where the note is: {title}.",
            )
            for kind, title in _NOTES.items()
        ),
        Metric(
            "contradictions",
            family,
            "Preferences that contradict the summary",
            "share",
            "lower",
            "Of the user's clauses that say like, dislike or not seen of a genre or item in the summary, the share "
            "that says the opposite of it.",
        ),
        Metric(
            "attribute_coverage",
            family,
            "Target attributes the user says",
            "share",
            "none",
            "Mean over dialogues of the share of target attributes that the user says in words (genre, decade, name).",
        ),
    ]


METRICS: Mapping[str, Metric] = {
    metric.name: metric for metric in (*_leakage(), *_recommendation(), *_realism(), *_diversity(), *_consistency())
}


def table() -> pl.DataFrame:
    """All definitions as a frame: name, family, title, unit, direction, definition, source."""
    return pl.DataFrame([vars(metric) for metric in METRICS.values()])
