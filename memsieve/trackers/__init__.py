"""What audits and checks tell a tracker."""
