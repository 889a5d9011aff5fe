{{ stage('dataworks', 'published_api_request_parameters', [
    ['project_id', 'bigint', 'workspace_id'],
    ['api_id', 'bigint'],
    ['kind', 'text', 'parameter_kind'],
    ['position', 'bigint', 'parameter_place'],
    ['parameter_name', 'text'],
    ['parameter_data_type_name', 'text', 'parameter_type'],
    ['parameter_position_name', 'text', 'sent_in'],
    ['parameter_operator_name', 'text', 'parameter_operator'],
    ['is_required_parameter', 'boolean', 'is_required'],
    ['parameter_description', 'text', 'description'],
    ['default_value', 'text'],
    ['example_value', 'text'],
]) }}
