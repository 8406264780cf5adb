"""Curated topics: named queries that readers can choose instead of writing their own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from itertools import groupby
from types import MappingProxyType

from pipeline.domain import TRENDING
from pipeline.matching.query import TopicQuery, parse_topic


@dataclass(frozen=True, slots=True)
class CuratedTopic:
    slug: str  # identifier in URLs; must never change
    name: str  # display name on pages and in mails
    group: str
    query: str


def _topics(group: str, **queries: tuple[str, str]) -> tuple[CuratedTopic, ...]:
    return tuple(
        CuratedTopic(slug.replace("_", "-"), name, group, query)
        for slug, (name, query) in queries.items()
    )


CURATED: tuple[CuratedTopic, ...] = (
    *_topics(
        "Popular",
        trending=("Trending", TRENDING),
        reasoning=(
            "Reasoning",
            '"chain of thought" OR ti:reasoning OR "test-time compute" OR "test-time scaling"',
        ),
        large_language_models=(
            "Large language models",
            'ti:"language model" OR ti:LLM',
        ),
        agents=(
            "Agents",
            'ti:agent OR ti:agentic OR "LLM agent" OR "language agent" OR "tool use" '
            'OR "function calling"',
        ),
        ai_for_science=(
            "AI for science",
            '"AI for science" OR "scientific discovery" OR "AI scientist" '
            'OR "automated research" OR "hypothesis generation"',
        ),
        multimodal_models=(
            "Multimodal models",
            'ti:multimodal OR "vision-language model" OR "multimodal large language model" '
            "OR VLM OR MLLM",
        ),
        diffusion_models=(
            "Diffusion models",
            '"diffusion model" OR "flow matching" OR "rectified flow" OR "diffusion transformer" '
            'OR "score-based generative"',
        ),
        reinforcement_learning=(
            "Reinforcement learning",
            'ti:"reinforcement learning" OR "policy gradient" OR "Q-learning" OR ti:GRPO '
            'OR ti:"multi-armed bandit" OR ti:bandit',
        ),
        robot_learning=(
            "Robot learning",
            '"vision-language-action" OR VLA OR "robot learning" OR "imitation learning" '
            'OR "robot manipulation" OR "embodied AI" OR "embodied agent"',
        ),
    ),
    *_topics(
        "Language models",
        retrieval_augmented_generation=(
            "Retrieval-augmented generation",
            '"retrieval-augmented generation" OR "retrieval augmented" OR ti:RAG',
        ),
        alignment=(
            "Alignment and preference learning",
            'RLHF OR "human feedback" OR "preference optimization" OR "reward model" '
            'OR "model alignment" OR "LLM alignment"',
        ),
        safety=(
            "AI safety and jailbreaks",
            'jailbreak OR "red teaming" OR "AI safety" OR "LLM safety" OR "prompt injection" '
            "OR guardrail",
        ),
        code_generation=(
            "Code generation",
            '"code generation" OR "program synthesis" OR "code LLM" OR "code language model" '
            'OR "SWE-bench" OR "coding agent"',
        ),
        benchmarks=(
            "Benchmarks of language models",
            '(ti:benchmark OR ti:evaluating OR ti:bench) AND ("language model" OR LLM)',
        ),
        hallucination=(
            "Hallucination and factuality",
            'ti:hallucination OR ti:factuality OR "fact-checking" OR "factual error" '
            'OR "hallucination detection"',
        ),
        long_context=(
            "Long context and memory",
            '"long context" OR "KV cache" OR "context window" OR "context length"',
        ),
        efficient_models=(
            "Small and efficient models",
            'quantization OR ti:pruning OR "model compression" OR "knowledge distillation" '
            'OR "speculative decoding" OR "small language model"',
        ),
        fine_tuning=(
            "Fine-tuning and adapters",
            'LoRA OR "parameter-efficient" OR "instruction tuning" OR ti:"fine-tuning"',
        ),
        pretraining=(
            "Pretraining, data and scaling laws",
            '"scaling law" OR ti:pretraining OR "pretraining data" OR "mixture of experts" '
            'OR "data curation"',
        ),
        interpretability=(
            "Interpretability",
            'ti:interpretability OR "mechanistic interpretability" OR "sparse autoencoder" '
            'OR "activation steering" OR "circuit discovery"',
        ),
        machine_translation=(
            "Translation and many languages",
            '"machine translation" OR ti:multilingual OR "low-resource language" '
            'OR "cross-lingual"',
        ),
        dialogue=(
            "Dialogue and question answering",
            'ti:dialogue OR ti:conversational OR ti:"question answering" OR "dialogue system"',
        ),
        text_mining=(
            "Text mining and summarization",
            'ti:summarization OR "information extraction" OR "named entity" '
            'OR "sentiment analysis" OR "text classification"',
        ),
    ),
    *_topics(
        "Images, video and sound",
        image_generation=(
            "Image generation",
            '"image generation" OR "text-to-image" OR "image editing" OR "image synthesis"',
        ),
        video_generation=(
            "Video generation and world models",
            '"video generation" OR "text-to-video" OR "video diffusion" OR "world model"',
        ),
        video_understanding=(
            "Video understanding",
            '"video understanding" OR "action recognition" OR ti:"video question answering" '
            'OR "temporal grounding" OR "video LLM" OR "video retrieval"',
        ),
        three_d_vision=(
            "3D vision",
            '"gaussian splatting" OR NeRF OR "3D reconstruction" OR "point cloud" '
            'OR "novel view synthesis" OR "3D generation"',
        ),
        object_detection=(
            "Detection and segmentation",
            '"object detection" OR "semantic segmentation" OR "instance segmentation" '
            'OR "segment anything" OR "object tracking"',
        ),
        medical_imaging=(
            "Medical imaging",
            '"medical image" OR radiology OR MRI OR "computed tomography" OR histopathology '
            'OR "chest X-ray" OR ultrasound',
        ),
        documents=(
            "Documents, charts and OCR",
            'OCR OR "document understanding" OR "chart understanding" OR "document parsing" '
            'OR "table understanding"',
        ),
        faces_and_people=(
            "Faces, bodies and motion",
            '"human motion" OR "pose estimation" OR "talking head" OR "face recognition" '
            'OR "human avatar" OR ti:deepfake',
        ),
        remote_sensing=(
            "Earth observation",
            '"remote sensing" OR "satellite imagery" OR "satellite image" OR "earth observation"',
        ),
        speech=(
            "Speech",
            '"speech recognition" OR "text-to-speech" OR "speech synthesis" OR ti:speech '
            'OR "speech language model"',
        ),
        music_and_audio=(
            "Music and sound",
            'ti:music OR ti:audio OR "music generation" OR "audio generation" OR "sound event"',
        ),
    ),
    *_topics(
        "Machine learning",
        transformers=(
            "Attention and new architectures",
            '"state space model" OR mamba OR "linear attention" OR "attention mechanism" '
            'OR "sparse attention"',
        ),
        optimization_for_learning=(
            "Training and optimization",
            '"stochastic gradient" OR SGD OR "Adam optimizer" OR "adaptive optimizer" '
            'OR "learning rate" OR "weight decay" OR ti:optimizer',
        ),
        learning_theory=(
            "Theory of learning",
            '"generalization bound" OR "sample complexity" OR "PAC learning" OR "neural tangent" '
            'OR "regret bound" OR "convergence rate" OR "generalization error" OR ti:provable',
        ),
        graphs=(
            "Graph learning",
            '"graph neural network" OR GNN OR "knowledge graph" OR "graph learning" '
            'OR "graph transformer"',
        ),
        time_series=(
            "Time series and forecasting",
            '"time series" OR ti:forecasting',
        ),
        causality=(
            "Causality",
            '"causal inference" OR "causal discovery" OR "treatment effect" OR counterfactual',
        ),
        bayesian_learning=(
            "Uncertainty and Bayesian learning",
            '"uncertainty quantification" OR "conformal prediction" OR "gaussian process" '
            'OR "bayesian neural network" OR "variational inference"',
        ),
        federated_learning=(
            "Privacy and federated learning",
            '"federated learning" OR "differential privacy" OR "machine unlearning" '
            'OR "membership inference"',
        ),
        robustness=(
            "Attacks and robustness",
            '"adversarial attack" OR "adversarial example" OR "adversarial robustness" '
            'OR "backdoor attack" OR "distribution shift" OR "out-of-distribution detection"',
        ),
        fairness=(
            "Fairness and society",
            'ti:fairness OR "algorithmic fairness" OR "gender bias" OR "social bias" OR cat:cs.CY',
        ),
        self_supervised_learning=(
            "Representations without labels",
            '"self-supervised" OR "contrastive learning" OR "representation learning"',
        ),
        continual_learning=(
            "Continual, few-shot and transfer learning",
            '"continual learning" OR "few-shot learning" OR "transfer learning" '
            'OR "domain adaptation" OR "catastrophic forgetting" OR "meta-learning"',
        ),
        tabular_learning=(
            "Tables and tabular learning",
            'ti:tabular OR "tabular data" OR "text-to-SQL" OR "gradient boosting"',
        ),
        neuromorphic=(
            "Spiking and neuromorphic computing",
            '"spiking neural network" OR neuromorphic OR cat:cs.NE',
        ),
    ),
    *_topics(
        "Robots and machines that act",
        robotics=(
            "Robotics",
            "ti:robot OR ti:robotic OR cat:cs.RO",
        ),
        autonomous_driving=(
            "Autonomous driving",
            '"autonomous driving" OR "self-driving" OR "autonomous vehicle" '
            'OR "trajectory prediction"',
        ),
        drones=(
            "Drones and multi-robot systems",
            'UAV OR drone OR quadrotor OR "unmanned aerial" OR "multi-robot" OR "robot swarm"',
        ),
        control=(
            "Control",
            'cat:eess.SY OR "model predictive control" OR "optimal control"',
        ),
        multi_agent_systems=(
            "Multi-agent systems and games",
            'cat:cs.MA OR cat:cs.GT OR "multi-agent system" OR "game theory" OR "mechanism design"',
        ),
    ),
    *_topics(
        "Computer science",
        information_retrieval=(
            "Search and information retrieval",
            'cat:cs.IR OR "dense retrieval" OR "information retrieval" OR reranking '
            'OR "search engine"',
        ),
        recommendation=(
            "Recommender systems",
            '"recommender system" OR "recommendation system" OR "sequential recommendation" '
            'OR "collaborative filtering" OR "click-through rate"',
        ),
        human_computer_interaction=(
            "Human-computer interaction",
            'cat:cs.HC OR "human-computer interaction" OR "human-AI interaction" '
            'OR "user interface"',
        ),
        software_engineering=(
            "Software engineering",
            'cat:cs.SE OR "software engineering" OR "software testing" OR "program repair"',
        ),
        programming_languages=(
            "Programming languages and verification",
            'cat:cs.PL OR cat:cs.LO OR cat:cs.FL OR "formal verification" OR "theorem proving" '
            'OR "type system" OR ti:compiler',
        ),
        security=(
            "Security and cryptography",
            'cat:cs.CR OR malware OR cryptography OR "intrusion detection"',
        ),
        systems=(
            "Systems, hardware and distributed computing",
            'cat:cs.DC OR cat:cs.AR OR cat:cs.OS OR cat:cs.PF OR "GPU kernel" '
            'OR "distributed training"',
        ),
        databases=(
            "Databases",
            'cat:cs.DB OR "vector database" OR "query optimization" OR "nearest neighbor search"',
        ),
        networks=(
            "Networks and the internet",
            'cat:cs.NI OR "edge computing" OR "6G" OR "wireless network"',
        ),
        algorithms=(
            "Algorithms and complexity",
            "cat:cs.DS OR cat:cs.CC OR cat:cs.CG OR cat:cs.DM OR cat:cs.SC "
            'OR "approximation algorithm"',
        ),
        information_theory=(
            "Information theory and coding",
            'cat:cs.IT OR "information theory" OR "channel coding" OR "error-correcting code"',
        ),
        graphics=(
            "Computer graphics",
            'cat:cs.GR OR "computer graphics" OR "neural rendering" OR "mesh generation"',
        ),
        social_networks=(
            "Social networks and social media",
            'cat:cs.SI OR "social media" OR "social network" OR misinformation',
        ),
        education=(
            "Education and digital libraries",
            'cat:cs.DL OR ti:education OR ti:student OR "intelligent tutoring" OR ti:classroom',
        ),
        quantum_computing=(
            "Quantum computing",
            '"quantum computing" OR "quantum circuit" OR "quantum machine learning" '
            'OR "quantum error correction" OR cat:cs.ET',
        ),
    ),
    *_topics(
        "Signals and electrical engineering",
        signal_processing=(
            "Signal processing and communications",
            'cat:eess.SP OR "signal processing" OR "channel estimation" OR beamforming OR ti:MIMO',
        ),
        image_processing=(
            "Image restoration and compression",
            'cat:eess.IV OR "super-resolution" OR "image restoration" OR "image denoising" '
            'OR "image compression"',
        ),
        audio_processing=(
            "Audio signal processing",
            'cat:eess.AS OR "speech enhancement" OR "source separation" OR "speaker verification"',
        ),
        energy=(
            "Power and energy",
            '"power grid" OR "smart grid" OR "power system" OR "renewable energy" '
            'OR "energy storage" OR "load forecasting"',
        ),
    ),
    *_topics(
        "Statistics",
        statistical_methods=(
            "Statistical methods",
            "cat:stat.ME OR cat:stat.CO",
        ),
        statistical_theory=(
            "Statistical theory",
            "cat:stat.TH OR cat:math.ST",
        ),
        statistical_learning=(
            "Statistical machine learning",
            "cat:stat.ML",
        ),
        applied_statistics=(
            "Applied statistics",
            "cat:stat.AP",
        ),
    ),
    *_topics(
        "Mathematics",
        algebra_and_number_theory=(
            "Algebra and number theory",
            "cat:math.NT OR cat:math.AC OR cat:math.RA OR cat:math.GR OR cat:math.RT "
            "OR cat:math.QA OR cat:math.KT",
        ),
        algebraic_geometry=(
            "Algebraic geometry",
            "cat:math.AG",
        ),
        geometry_and_topology=(
            "Geometry and topology",
            "cat:math.DG OR cat:math.GT OR cat:math.AT OR cat:math.MG OR cat:math.SG "
            "OR cat:math.GN",
        ),
        analysis=(
            "Analysis and differential equations",
            "cat:math.AP OR cat:math.CA OR cat:math.FA OR cat:math.CV OR cat:math.OA "
            "OR cat:math.SP OR cat:math.DS",
        ),
        probability=(
            "Probability",
            "cat:math.PR",
        ),
        combinatorics_and_logic=(
            "Combinatorics and logic",
            "cat:math.CO OR cat:math.LO OR cat:math.CT",
        ),
        optimization=(
            "Optimization and operations research",
            'cat:math.OC OR "convex optimization" OR "combinatorial optimization" '
            'OR "integer programming"',
        ),
        numerical_analysis=(
            "Numerical analysis and scientific computing",
            'cat:math.NA OR cat:cs.CE OR cat:cs.MS OR "physics-informed" OR "neural operator" '
            'OR "finite element"',
        ),
        mathematical_physics=(
            "Mathematical physics",
            "cat:math-ph OR cat:math.MP",
        ),
        mathematics_by_machines=(
            "Mathematics by machines",
            '"mathematical reasoning" OR "math reasoning" OR "theorem proving" OR Lean4 '
            'OR "automated theorem" OR "olympiad"',
        ),
    ),
    *_topics(
        "Physics",
        quantum_physics=(
            "Quantum physics",
            "cat:quant-ph",
        ),
        materials=(
            "Materials and condensed matter",
            'cat:cond-mat.* OR "materials discovery" OR "crystal structure"',
        ),
        superconductivity=(
            "Superconductivity and strongly correlated electrons",
            "cat:cond-mat.supr-con OR cat:cond-mat.str-el OR superconductivity",
        ),
        soft_matter_and_complexity=(
            "Soft matter, statistical physics and chaos",
            "cat:cond-mat.soft OR cat:cond-mat.stat-mech OR cat:nlin.*",
        ),
        high_energy_theory=(
            "High energy physics, theory",
            'cat:hep-th OR cat:hep-ph OR cat:hep-lat OR "quantum field theory" OR "string theory"',
        ),
        high_energy_experiment=(
            "Particle physics experiments",
            'cat:hep-ex OR cat:physics.ins-det OR cat:physics.acc-ph OR "Large Hadron Collider"',
        ),
        nuclear_physics=(
            "Nuclear physics",
            'cat:nucl-th OR cat:nucl-ex OR "nuclear physics"',
        ),
        gravity=(
            "Gravity and relativity",
            'cat:gr-qc OR "gravitational wave" OR "general relativity"',
        ),
        optics=(
            "Optics and photonics",
            'cat:physics.optics OR "optical neural network" OR "silicon photonics"',
        ),
        fluids_and_plasma=(
            "Fluids and plasma",
            'cat:physics.flu-dyn OR cat:physics.plasm-ph OR "fluid dynamics" OR ti:turbulence',
        ),
        climate=(
            "Climate and weather",
            'cat:physics.ao-ph OR cat:physics.geo-ph OR "climate change" OR "climate model" '
            'OR "weather forecasting" OR "weather prediction"',
        ),
        chemistry=(
            "Chemistry and molecules",
            'cat:physics.chem-ph OR "molecular dynamics" OR "molecule generation" '
            'OR "molecular property" OR "interatomic potential"',
        ),
        physics_and_society=(
            "Physics of society and medicine",
            "cat:physics.soc-ph OR cat:physics.med-ph OR cat:physics.bio-ph "
            "OR cat:physics.ed-ph OR cat:physics.hist-ph",
        ),
        applied_physics=(
            "Applied, atomic and computational physics",
            "cat:physics.app-ph OR cat:physics.atom-ph OR cat:physics.comp-ph "
            "OR cat:physics.class-ph OR cat:physics.data-an OR cat:physics.gen-ph",
        ),
    ),
    *_topics(
        "Astronomy",
        galaxies=(
            "Galaxies",
            "cat:astro-ph.GA",
        ),
        cosmology=(
            "Cosmology",
            'cat:astro-ph.CO OR cosmology OR "dark matter" OR "dark energy"',
        ),
        stars=(
            "Stars, the Sun and space weather",
            "cat:astro-ph.SR OR cat:physics.space-ph",
        ),
        planets=(
            "Planets and exoplanets",
            "cat:astro-ph.EP OR exoplanet",
        ),
        high_energy_astrophysics=(
            "High energy astrophysics",
            'cat:astro-ph.HE OR "black hole" OR "neutron star"',
        ),
        astronomical_instruments=(
            "Telescopes and astronomical methods",
            "cat:astro-ph.IM OR telescope",
        ),
    ),
    *_topics(
        "Life and medicine",
        proteins_and_drugs=(
            "Proteins and drug discovery",
            'protein OR "drug discovery" OR "drug design" OR cat:q-bio.BM',
        ),
        genomics=(
            "Genomics and single cells",
            'genomic OR genome OR "single-cell" OR "gene expression" OR cat:q-bio.GN '
            "OR cat:q-bio.MN OR cat:q-bio.CB",
        ),
        neuroscience=(
            "Neuroscience and brain signals",
            'cat:q-bio.NC OR neuroscience OR EEG OR fMRI OR "brain-computer interface"',
        ),
        clinical_ai=(
            "Medicine and health care",
            'ti:clinical OR ti:medical OR "electronic health record" OR "medical diagnosis" '
            "OR healthcare",
        ),
        populations=(
            "Evolution, populations and epidemics",
            'cat:q-bio.PE OR epidemic OR epidemiology OR "evolutionary biology" OR phylogenetic',
        ),
        quantitative_biology=(
            "Quantitative biology",
            "cat:q-bio.*",
        ),
    ),
    *_topics(
        "Economics and finance",
        economics=(
            "Economics",
            "cat:econ.*",
        ),
        finance=(
            "Quantitative finance",
            'cat:q-fin.* OR "stock market" OR "portfolio optimization" '
            'OR "financial market" OR ti:financial',
        ),
    ),
)

BY_SLUG: Mapping[str, CuratedTopic] = MappingProxyType({topic.slug: topic for topic in CURATED})

BY_NAME: Mapping[str, CuratedTopic] = MappingProxyType(
    {topic.name.casefold(): topic for topic in CURATED}
)

GROUPS: tuple[tuple[str, tuple[CuratedTopic, ...]], ...] = tuple(
    (group, tuple(topics)) for group, topics in groupby(CURATED, key=lambda topic: topic.group)
)


@cache
def parsed(slug: str) -> TopicQuery:
    """Return the parsed query of a curated topic; cached for the process."""
    return parse_topic(BY_SLUG[slug].query)


def named(line: str) -> CuratedTopic | None:
    """Return the curated topic with this name; None if the line is a query.

    A form can so submit the lines that it displays, chosen or typed.
    """
    return BY_NAME.get(" ".join(line.split()).casefold())
