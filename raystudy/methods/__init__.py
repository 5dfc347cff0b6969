"""The methods, by the name used on the command line, in search spaces and in tables. One file per method."""

from raystudy.method import Method
from raystudy.methods.apl import APL
from raystudy.methods.b_correction import BCorrection
from raystudy.methods.bootstrap import Bootstrap
from raystudy.methods.ce import CE
from raystudy.methods.coteaching import CoTeaching
from raystudy.methods.coteaching_plus import CoTeachingPlus
from raystudy.methods.dividemix import DivideMix
from raystudy.methods.dropout import Dropout
from raystudy.methods.elr import ELR
from raystudy.methods.elr_plus import ELRPlus
from raystudy.methods.f_correction import FCorrection
from raystudy.methods.focal import Focal
from raystudy.methods.gce import GCE
from raystudy.methods.incv import INCV
from raystudy.methods.jocor import JoCoR
from raystudy.methods.label_smoothing import LabelSmoothing
from raystudy.methods.m_correction import MCorrection
from raystudy.methods.mae import MAE
from raystudy.methods.mentormix import MentorMix
from raystudy.methods.mentornet_dd import MentorNetDD
from raystudy.methods.mentornet_pd import MentorNetPD
from raystudy.methods.meta_learning import MetaLearning
from raystudy.methods.mixup import Mixup
from raystudy.methods.p_correction import PCorrection
from raystudy.methods.s_model import SModel
from raystudy.methods.sce import SCE
from raystudy.methods.self_paced import SelfPaced
from raystudy.methods.spade import Spade
from raystudy.methods.weight_decay import WeightDecay

METHODS: dict[str, type[Method]] = {
    "apl": APL,
    "b_correction": BCorrection,
    "bootstrap": Bootstrap,
    "ce": CE,
    "coteaching": CoTeaching,
    "coteaching_plus": CoTeachingPlus,
    "dividemix": DivideMix,
    "dropout": Dropout,
    "elr": ELR,
    "elr_plus": ELRPlus,
    "f_correction": FCorrection,
    "focal": Focal,
    "gce": GCE,
    "incv": INCV,
    "jocor": JoCoR,
    "label_smoothing": LabelSmoothing,
    "m_correction": MCorrection,
    "mae": MAE,
    "mentormix": MentorMix,
    "mentornet_dd": MentorNetDD,
    "mentornet_pd": MentorNetPD,
    "meta_learning": MetaLearning,
    "mixup": Mixup,
    "p_correction": PCorrection,
    "s_model": SModel,
    "sce": SCE,
    "self_paced": SelfPaced,
    "spade": Spade,
    "weight_decay": WeightDecay,
}
