"""NVIDIA's XID errors: what each means, and what NVIDIA says to do at once. Data alone.

Numbers, meanings and actions are those of the XID catalogue for Ampere and later, of October 2025:
https://docs.nvidia.com/deploy/xid-errors/analyzing-xid-catalog.html. XIDs that it calls unused are left out, and an
empty action is one that it does not name.
"""

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Xid:
    """One number of the catalogue."""

    meaning: str
    action: str


XIDS: Final = {
    8: Xid("GPU stopped processing", "RESTART_APP"),
    11: Xid("Invalid or corrupted push buffer stream", "RESTART_APP"),
    13: Xid("Graphics Engine Exception", "RESTART_APP"),
    25: Xid("Invalid or illegal push buffer stream", "RESTART_APP"),
    31: Xid("GPU memory page fault", "RESTART_APP"),
    32: Xid("Invalid or corrupted push buffer stream", "RESTART_APP"),
    37: Xid("Driver firmware error", "IGNORE"),
    38: Xid("Driver firmware error", "IGNORE"),
    39: Xid("Copy Engine Exception", "RESTART_APP"),
    40: Xid("Copy Engine Exception", "RESTART_APP"),
    41: Xid("Copy Engine Exception", "RESTART_APP"),
    43: Xid("GPU stopped processing", "IGNORE"),
    44: Xid("Graphics Engine fault during context switch", "IGNORE"),
    45: Xid("Preemptive cleanup after an earlier error", "WORKFLOW_XID_45"),
    46: Xid("GPU stopped processing", "RESET_GPU"),
    48: Xid("Double-bit ECC error", "WORKFLOW_XID_48"),
    54: Xid("Auxiliary power is not connected to the GPU board", "CHECK_MECHANICALS"),
    60: Xid("Video processor exception", "RESTART_APP"),
    62: Xid("Internal micro-controller halt", "RESET_GPU"),
    63: Xid("GPU memory remapping event", "IGNORE"),
    64: Xid("GPU memory remapping failure", "RESET_GPU"),
    66: Xid("Illegal access by driver", "IGNORE"),
    67: Xid("Illegal access by driver", "IGNORE"),
    68: Xid("NVDEC0 Exception", "RESTART_APP"),
    69: Xid("Graphics Engine class error", "RESTART_APP"),
    70: Xid("CE3: Unknown Error", "RESTART_APP"),
    71: Xid("CE4: Unknown Error", "RESTART_APP"),
    72: Xid("CE5: Unknown Error", "RESTART_APP"),
    74: Xid("NVLINK Error", "WORKFLOW_NVLINK_ERR"),
    75: Xid("CE6: Unknown Error", "RESTART_APP"),
    76: Xid("CE7: Unknown Error", "RESTART_APP"),
    77: Xid("CE8: Unknown Error", "RESTART_APP"),
    78: Xid("vGPU Start Error", "UPDATE_SWFW"),
    79: Xid("GPU has fallen off the bus", "RESTART_BM"),
    80: Xid("Corrupted data sent to GPU", "RESTART_APP"),
    82: Xid("NVJPG0 Error", "RESTART_APP"),
    83: Xid("NVDEC1 Error", "RESTART_APP"),
    84: Xid("NVDEC2 Error", "RESTART_APP"),
    85: Xid("CE9: Unknown Error", "RESTART_APP"),
    86: Xid("OFA Exception", "RESTART_APP"),
    88: Xid("NVDEC3 Error", "RESTART_APP"),
    89: Xid("NVDEC4 Error", "RESTART_APP"),
    92: Xid("High single-bit ECC error rate", "IGNORE"),
    93: Xid("Non-fatal violation of provisioned InfoROM wear limit", "IGNORE"),
    94: Xid("Contained memory error", "RESTART_APP"),
    95: Xid("Uncontained memory error", "RESET_GPU"),
    96: Xid("NVDEC5 Error", "RESTART_APP"),
    97: Xid("NVDEC6 Error", "RESTART_APP"),
    98: Xid("NVDEC7 Error", "RESTART_APP"),
    99: Xid("NVJPG1 Error", "RESTART_APP"),
    100: Xid("NVJPG2 Error", "RESTART_APP"),
    101: Xid("NVJPG3 Error", "RESTART_APP"),
    102: Xid("NVJPG4 Error", "RESTART_APP"),
    103: Xid("NVJPG5 Error", "RESTART_APP"),
    104: Xid("NVJPG6 Error", "RESTART_APP"),
    105: Xid("NVJPG7 Error", "RESTART_APP"),
    106: Xid("SMBPBI Test Message", "IGNORE"),
    107: Xid("SMBPBI Test Message Silent", "IGNORE"),
    109: Xid("Context Switch Timeout Error", "RESET_GPU"),
    110: Xid("Security Fault Error", "RESET_GPU"),
    119: Xid("GSP RPC Timeout", "RESET_GPU"),
    120: Xid("GSP Error", "RESET_GPU"),
    121: Xid("C2C Error", "IGNORE"),
    126: Xid("CE10: Unknown Error", "RESTART_APP"),
    127: Xid("CE11: Unknown Error", "RESTART_APP"),
    128: Xid("CE12: Unknown Error", "RESTART_APP"),
    129: Xid("CE13: Unknown Error", "RESTART_APP"),
    130: Xid("CE14: Unknown Error", "RESTART_APP"),
    131: Xid("CE15: Unknown Error", "RESTART_APP"),
    132: Xid("CE16: Unknown Error", "RESTART_APP"),
    133: Xid("CE17: Unknown Error", "RESTART_APP"),
    134: Xid("CE18: Unknown Error", "RESTART_APP"),
    135: Xid("CE19: Unknown Error", "RESTART_APP"),
    136: Xid("Link Training Failed", "RESET_GPU"),
    137: Xid("NVLink Privilege Error", "IGNORE"),
    139: Xid("OFA1 Error", "RESTART_APP"),
    140: Xid("ECC Unrecovered Error", "RESET_GPU"),
    141: Xid("CUDA Fast Path Error", "IGNORE"),
    142: Xid("NVENC3 Error", "CONTACT_SUPPORT"),
    143: Xid("GPU Initialization Error", "RESET_GPU"),
    144: Xid("NVLINK: SAW Error", "WORKFLOW_NVLINK5_ERR"),
    145: Xid("NVLINK: RLW Error", "WORKFLOW_NVLINK5_ERR"),
    146: Xid("NVLINK: TLW Error", "WORKFLOW_NVLINK5_ERR"),
    147: Xid("NVLINK: TREX Error", "WORKFLOW_NVLINK5_ERR"),
    148: Xid("NVLINK: NVLPW_CTRL Error", "WORKFLOW_NVLINK5_ERR"),
    149: Xid("NVLINK: NETIR Error", "WORKFLOW_NVLINK5_ERR"),
    150: Xid("NVLINK: MSE Error", "WORKFLOW_NVLINK5_ERR"),
    151: Xid("Key rotation Error", "RESTART_VM"),
    152: Xid("DLA SMMU Error", "IGNORE"),
    153: Xid("DLA timeout Error", "IGNORE"),
    154: Xid("The GPU's recovery action changed", "XID_154"),
    155: Xid("NVLINK: SW Defined Error", "RESET_GPU"),
    156: Xid("Resource Retirement Event", "RESET_GPU"),
    157: Xid("Resource Retirement Failure", "IGNORE"),
    158: Xid("GPU Fatal Timeout", "RESET_GPU"),
    159: Xid("CHI Non-Data Error", "CHECK_UVM"),
    160: Xid("Channel Retirement Event", "IGNORE"),
    161: Xid("Channel Retirement Failure", "IGNORE"),
    162: Xid("Power Smoothing HW Circuitry capability reengaged", ""),
    163: Xid("Power Smoothing HW Circuitry capability disengaged", ""),
    164: Xid("Power Smoothing HW Circuitry low lifetime reached", ""),
    165: Xid("Power Smoothing HW Circuitry lifetime exhausted", ""),
    166: Xid("Traffic before the link was set up for encryption", ""),
    167: Xid("PCIe fatal timeout", ""),
    168: Xid("Less GPU memory: errors in a write-protected region", ""),
    169: Xid("Internal micro-controller halt", ""),
    170: Xid("Interrupt seen in CC mode", ""),
    171: Xid("Uncorrectable DRAM error, beside XID 48", ""),
    172: Xid("Uncorrectable SRAM error, beside XID 48", ""),
}

# After these NVIDIA asks for a reset of the GPU or a restart of its machine: the GPU does no more work until then.
# Its workflow for a double-bit error (48) and for NVLink (74) ends in the same; 171 and 172 say where 48 was.
LASTING_ACTIONS: Final = ("RESET_GPU", "RESTART_BM")
FATAL_XIDS: Final = {
    number: xid.meaning for number, xid in XIDS.items() if xid.action in LASTING_ACTIONS or number in (48, 74, 171, 172)
}
