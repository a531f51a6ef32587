"""Why a converted model is worse: causes proven by experiment, and changes that have been tried. numpy alone."""
