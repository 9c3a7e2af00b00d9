"""Resolve the threshold: explicit, or calibrated for a risk."""

from __future__ import annotations

from vtokens.filter.calibrators.calibrator import Calibrator
from vtokens.filter.guarantees.calibration import Calibration
from vtokens.filter.guarantees.risk import Certificate, Risk
from vtokens.filter.guarantees.setting import CalibrationSetting
from vtokens.filter.judge import Threshold


def certificate(calibration: Calibration | None, risk: Risk | float | None, action: str) -> Certificate:
    """The threshold for a risk of what an action leaves.

    Raises:
        ValueError: there is no calibration.
    """
    if calibration is None:
        raise ValueError(
            "this filter is not calibrated, so it can guarantee nothing: label some of its reports "
            "(report.record(image, labels)) and give them to fit(records) and, of other images, calibrate(records)"
        )
    return calibration.certificate(risk, action)


def resolve(
    calibrator: Calibrator | None,
    calibration: Calibration | None,
    setting: CalibrationSetting,
    action: str,
    risk: Risk | float | None,
    threshold: float | None,
) -> Threshold:
    """The threshold above which mentions are flagged.

    Args:
        calibrator, calibration: the filter's.
        setting: under which conditions the response comes about; a guarantee holds under those of the calibration only.
        action: what will be done.
        risk: as of `HallucinationFilter.certificate`.
        threshold: a probability, in place of it.

    Returns:
        What was given; or 0.5 for "flag", if nothing was; or the certificate's threshold.

    Raises:
        ValueError: both, a threshold outside [0, 1], none where one is needed, another setting than the calibration's,
            or a risk that cannot be guaranteed.
    """
    if threshold is not None:
        if risk is not None:
            raise ValueError(f"risk={risk!r} and threshold={threshold!r} exclude each other: give one of them")
        if isinstance(threshold, bool) or not isinstance(threshold, int | float) or not 0 <= threshold <= 1:
            raise ValueError(f"threshold={threshold!r} is not allowed: a probability from 0 to 1")
        return Threshold(float(threshold))
    if risk is None and action == "flag":
        return Threshold(0.5)
    if calibration is None and risk is None:
        raise ValueError(
            f"action={action!r} needs a threshold and this filter is not calibrated: give threshold=, a number from 0 "
            "to 1, or calibrate it (fit(records), then calibrate(records) of other images)"
        )
    found = certificate(calibration, risk, action)
    assert calibrator is not None
    try:
        calibrator.check(setting, "error")
    except ValueError as error:
        raise ValueError(f"{error}; or give threshold=, which guarantees nothing") from error
    if found.infeasible:
        raise ValueError(f"this cannot be guaranteed. {found}")
    return Threshold(certificate=found)
