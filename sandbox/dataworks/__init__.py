"""DataWorks DataService 2020-05-18: signed actions on one path, envelopes and traps of the vendor's sheet."""
